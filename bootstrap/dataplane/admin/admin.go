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

// Config is what the admin port shows and may do. All fields are required but Args and Loggers.
type Config struct {
	Bootstrap   *bootstrapv3.Bootstrap
	Clusters    *cluster.Manager
	Listeners   *listener.Manager
	Routes      *hcm.RouteStore
	Secrets     *tlsctx.Store
	Stats       *stats.Registry
	Log         *slog.Logger
	State       func() int32
	Drain       func(inboundOnly, graceful, skipExit bool)
	Fail        func(bool) // makes the health check fail, or succeed again
	Quit        func()
	Args        []string
	DrainTime   time.Duration
	Concurrency int
	ConfigPath  string
	LogLevel    string   // as the command line has it
	Loggers     *Loggers // nil where the level of Log cannot be changed
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
	for _, p := range s.pages() {
		mux.HandleFunc(p.path, func(w http.ResponseWriter, r *http.Request) {
			if p.post && r.Method != http.MethodPost {
				http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
				return
			}
			p.handle(w, r)
		})
	}
	mux.HandleFunc("/{$}", s.home)
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

func (s *Server) memory(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	sayJSON(w, &adminv3.Memory{
		Allocated: m.HeapAlloc, HeapSize: m.HeapSys, PageheapUnmapped: m.HeapReleased, PageheapFree: m.HeapIdle - m.HeapReleased,
		TotalPhysicalBytes: m.Sys - m.HeapReleased,
	}, true)
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Has("skip_exit") && !q.Has("graceful") {
		http.Error(w, "skip_exit requires graceful", http.StatusBadRequest)
		return
	}
	s.cfg.Drain(q.Has("inboundonly"), q.Has("graceful"), q.Has("skip_exit"))
	say(w, "OK\n")
}
