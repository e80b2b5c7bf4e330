// Package admin serves the proxy's admin port as Envoy does: the paths that pilot-agent, istioctl and Prometheus read.
//
// It knows how to show configuration, endpoints, certificates and statistics. It changes nothing but the log level, the
// drain state and the end of the process, through what it is given.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/listener"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// Config is what the admin port shows and may do. All fields are required but Args and Level.
type Config struct {
	Bootstrap   *bootstrapv3.Bootstrap
	Clusters    *cluster.Manager
	Listeners   *listener.Manager
	Routes      *hcm.RouteStore
	Secrets     *tlsctx.Store
	Stats       *stats.Registry
	Log         *slog.Logger
	State       func() int32
	Drain       func(inboundOnly, graceful bool)
	Quit        func()
	Args        []string
	DrainTime   time.Duration
	Concurrency int
	ConfigPath  string
	LogLevel    string         // as the command line has it
	Level       *slog.LevelVar // in force now; nil where the level of Log cannot be changed
	Version     string
}

// Server is the admin port. New, Start, Stop.
type Server struct {
	cfg   Config
	start time.Time
	srv   *http.Server
	ln    net.Listener
	done  chan struct{}
}

// New prepares the server; Start opens the port.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, start: time.Now(), done: make(chan struct{})}
	mux := http.NewServeMux()
	get := func(path string, h http.HandlerFunc) { mux.HandleFunc(path, h) }
	post := func(path string, h http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
				return
			}
			h(w, r)
		})
	}
	get("/ready", s.ready)
	get("/server_info", s.serverInfo)
	get("/config_dump", s.configDump)
	get("/clusters", s.clusters)
	get("/listeners", s.listeners)
	get("/certs", s.certs)
	get("/stats", s.stats)
	get("/stats/prometheus", s.prometheus)
	get("/memory", s.memory)
	get("/runtime", s.runtime)
	post("/quitquitquit", func(w http.ResponseWriter, _ *http.Request) { say(w, "OK\n"); cfg.Quit() })
	post("/drain_listeners", s.drain)
	post("/logging", s.logging)
	post("/reset_counters", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "counters are never reset by this proxy", http.StatusNotImplemented)
	})
	get("/{$}", s.help)
	get("/help", s.help)
	s.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return s
}

// Start opens the port that the bootstrap names. Without one there is no admin port.
func (s *Server) Start() error {
	a := s.cfg.Bootstrap.GetAdmin().GetAddress().GetSocketAddress()
	if a == nil {
		close(s.done)
		return nil
	}
	host := a.GetAddress()
	ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(a.GetPortValue()))))
	if err != nil {
		close(s.done)
		return fmt.Errorf("admin port: %w", err)
	}
	s.ln = ln
	go func() {
		defer close(s.done)
		if err := s.srv.Serve(ln); err != nil && err != http.ErrServerClosed {
			s.cfg.Log.Error("admin port", "err", err)
		}
	}()
	return nil
}

// Addr returns the address that the port listens on, nil without one.
func (s *Server) Addr() net.Addr {
	if s.ln == nil {
		return nil
	}
	return s.ln.Addr()
}

// Stop closes the port and waits for running requests until ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if s.ln == nil {
		return nil
	}
	err := s.srv.Shutdown(ctx)
	if err != nil {
		_ = s.srv.Close()
	}
	<-s.done
	return err
}

func say(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.Header().Set("Cache-Control", "no-cache, max-age=0")
	_, _ = w.Write([]byte(text))
}

// sayJSON writes m with proto field names, as Envoy does. defaults shows fields that hold their zero value too.
func sayJSON(w http.ResponseWriter, m proto.Message, defaults bool) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: defaults}.Marshal(m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", " "); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	b.WriteByte('\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache, max-age=0")
	_, _ = w.Write(b.Bytes())
}

func (s *Server) help(w http.ResponseWriter, _ *http.Request) {
	say(w, "admin commands are:\n  /certs\n  /clusters\n  /config_dump\n  /drain_listeners (POST)\n  /listeners\n"+
		"  /logging (POST)\n  /memory\n  /quitquitquit (POST)\n  /ready\n  /runtime\n  /server_info\n  /stats\n  /stats/prometheus\n")
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	st := adminv3.ServerInfo_State(s.cfg.State())
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	if st != adminv3.ServerInfo_LIVE {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write([]byte(st.String() + "\n"))
}

func (s *Server) serverInfo(w http.ResponseWriter, _ *http.Request) {
	up := durationpb.New(time.Since(s.start).Truncate(time.Second))
	conc := s.cfg.Concurrency
	if conc == 0 {
		conc = runtime.GOMAXPROCS(0)
	}
	sayJSON(w, &adminv3.ServerInfo{
		Version: s.cfg.Version, State: adminv3.ServerInfo_State(s.cfg.State()), UptimeCurrentEpoch: up, UptimeAllEpochs: up,
		HotRestartVersion: "disabled", Node: s.cfg.Bootstrap.GetNode(),
		CommandLineOptions: &adminv3.CommandLineOptions{
			Concurrency: uint32(conc), ConfigPath: s.cfg.ConfigPath, LogLevel: s.cfg.LogLevel, DisableHotRestart: true,
			DrainTime: durationpb.New(s.cfg.DrainTime), DrainStrategy: adminv3.CommandLineOptions_Immediate,
		},
	}, true)
}

// refresh brings the statistics of the process itself up to date.
func (s *Server) refresh() {
	sc := stats.Scope{Name: "server", Family: "envoy_server"}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.cfg.Stats.Gauge(sc, "uptime").Set(int64(time.Since(s.start).Seconds()))
	s.cfg.Stats.Gauge(sc, "memory_allocated").Set(int64(m.HeapAlloc))
	s.cfg.Stats.Gauge(sc, "memory_heap_size").Set(int64(m.HeapSys))
	s.cfg.Stats.Gauge(sc, "concurrency").Set(int64(runtime.GOMAXPROCS(0)))
}

func filterOf(r *http.Request) (stats.Filter, error) {
	q := r.URL.Query()
	f := stats.Filter{UsedOnly: q.Has("usedonly")}
	if t := q.Get("type"); t != "" && t != "All" {
		return f, fmt.Errorf("type=%s is not supported, only type=All", t)
	}
	if re := q.Get("filter"); re != "" {
		c, err := regexp.Compile(re)
		if err != nil {
			return f, fmt.Errorf("invalid regex: %w", err)
		}
		f.Match = c
	}
	return f, nil
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.refresh()
	switch r.URL.Query().Get("format") {
	case "prometheus":
		s.prometheus(w, r)
	case "json":
		type one struct {
			Name  string `json:"name"`
			Value int64  `json:"value"`
		}
		var out struct {
			Stats []one `json:"stats"`
		}
		for _, v := range s.cfg.Stats.Values(f) {
			out.Stats = append(out.Stats, one{v.Name, v.Value})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	case "", "text":
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		_ = s.cfg.Stats.WriteText(w, f)
	default:
		http.Error(w, "usage: /stats?format=(text|json|prometheus)", http.StatusBadRequest)
	}
}

func (s *Server) prometheus(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.UsedOnly = true // thousands of zeros help nobody
	s.refresh()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = s.cfg.Stats.WritePrometheus(w, f)
}

func (s *Server) memory(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	sayJSON(w, &adminv3.Memory{
		Allocated: m.HeapAlloc, HeapSize: m.HeapSys, PageheapUnmapped: m.HeapReleased, PageheapFree: m.HeapIdle - m.HeapReleased,
		TotalPhysicalBytes: m.Sys - m.HeapReleased,
	}, true)
}

func (s *Server) runtime(w http.ResponseWriter, _ *http.Request) {
	// Runtime flags of the bootstrap are not consulted, so none is in force.
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte("{\n \"layers\": [],\n \"entries\": {}\n}\n"))
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.cfg.Drain(q.Has("inboundonly"), q.Has("graceful"))
	say(w, "OK\n")
}
