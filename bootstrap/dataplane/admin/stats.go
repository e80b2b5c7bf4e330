package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// refresh brings the statistics of the process itself up to date.
func (s *Server) refresh() {
	sc := stats.Scope{Name: "server", Family: "envoy_server"}
	set := func(name string, v int64) { s.cfg.Stats.Gauge(sc, name).Set(v) }
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	set("uptime", int64(time.Since(s.start).Seconds()))
	set("memory_allocated", int64(m.HeapAlloc))
	set("memory_heap_size", int64(m.HeapSys))
	set("memory_physical_size", int64(m.Sys-m.HeapReleased))
	set("concurrency", int64(runtime.GOMAXPROCS(0)))
	set("hot_restart_epoch", 0)
	set("parent_connections", 0)
	var open int64
	for _, v := range s.cfg.Stats.Values(stats.Filter{Match: activeConnections, Kinds: stats.Gauges}) {
		open += v.Value
	}
	set("total_connections", open)
	if days, ok := s.daysOfCertificates(); ok {
		set("days_until_first_cert_expiring", days)
	}
	s.cfg.Stats.Text(sc, "version_text").Set(s.cfg.Version)
	cm := stats.Scope{Name: "cluster_manager", Family: "envoy_cluster_manager"}
	var warming int64
	for _, c := range s.cfg.Clusters.All() {
		c.Refresh(s.cfg.Stats)
		if !c.Initialized() {
			warming++
		}
	}
	s.cfg.Stats.Gauge(cm, "warming_clusters").Set(warming)
}

var activeConnections = regexp.MustCompile(`^listener\.[^.]*(\.[^.]*){3}\.downstream_cx_active$|^listener\.[^.]*\.downstream_cx_active$`)

// daysOfCertificates is how many days the first certificate to expire has left.
func (s *Server) daysOfCertificates() (int64, bool) {
	var least time.Duration
	found := false
	for _, ref := range s.cfg.Secrets.All() {
		sec := ref.Load()
		if sec == nil || sec.Cert == nil || sec.Cert.Leaf == nil {
			continue
		}
		if left := time.Until(sec.Cert.Leaf.NotAfter); !found || left < least {
			least, found = left, true
		}
	}
	return int64(max(least/(24*time.Hour), 0)), found
}

var kinds = map[string]stats.Kind{
	"": 0, "All": stats.All, "Counters": stats.Counters, "Gauges": stats.Gauges, "Histograms": stats.Histograms, "TextReadouts": stats.Texts,
}

func filterOf(r *http.Request) (stats.Filter, error) {
	q := r.URL.Query()
	f := stats.Filter{UsedOnly: q.Has("usedonly")}
	kind, ok := kinds[q.Get("type")]
	if !ok {
		return f, fmt.Errorf("usage: /stats?type=(All|Counters|Gauges|Histograms|TextReadouts)")
	}
	f.Kinds = kind
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
	how := stats.Buckets(r.URL.Query().Get("histogram_buckets"))
	switch how {
	case "none", "summary":
		how = stats.Summary
	case stats.Summary, stats.Cumulative, stats.Disjoint:
	default:
		http.Error(w, "usage: /stats?histogram_buckets=(cumulative|disjoint|none|summary)", http.StatusBadRequest)
		return
	}
	s.refresh()
	switch r.URL.Query().Get("format") {
	case "prometheus":
		s.prometheus(w, r)
	case "json":
		w.Header().Set("Content-Type", "application/json")
		_ = s.cfg.Stats.WriteJSON(w, f)
	case "", "text":
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		_ = s.cfg.Stats.WriteText(w, f, how)
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
	if r.URL.Query().Has("text_readouts") {
		f.Kinds = stats.All
	}
	f.UsedOnly = true // thousands of zeros help nobody
	s.refresh()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = s.cfg.Stats.WritePrometheus(w, f)
}

// runtime shows the layers of the bootstrap. No flag in them is consulted by this proxy.
func (s *Server) runtime(w http.ResponseWriter, _ *http.Request) {
	type entry struct {
		Final  string   `json:"final_value"`
		Layers []string `json:"layer_values"`
	}
	out := struct {
		Layers  []string          `json:"layers"`
		Entries map[string]*entry `json:"entries"`
	}{Layers: []string{}, Entries: map[string]*entry{}}
	layers := s.cfg.Bootstrap.GetLayeredRuntime().GetLayers()
	for i, l := range layers {
		out.Layers = append(out.Layers, l.GetName())
		for key, v := range l.GetStaticLayer().GetFields() {
			e := out.Entries[key]
			if e == nil {
				e = &entry{Layers: make([]string, len(layers))}
				out.Entries[key] = e
			}
			raw, err := v.MarshalJSON()
			if err != nil {
				continue
			}
			e.Layers[i] = strings.Trim(string(raw), `"`)
			e.Final = e.Layers[i]
		}
	}
	raw, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(raw, '\n'))
}
