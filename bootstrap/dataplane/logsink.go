package dataplane

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// logSinks are what access logs go to: files, one writer per path, and collectors, one queue for equal
// configurations.
type logSinks struct {
	clusters *cluster.Manager
	stats    *stats.Registry
	node     *corev3.Node

	collectors map[string]*logCollector
	log        *slog.Logger
	mu         sync.Mutex
	files      map[string]*logFile
	every      time.Duration // between flushes
}

func newLogSinks(every time.Duration, clusters *cluster.Manager, reg *stats.Registry, node *corev3.Node, log *slog.Logger) *logSinks {
	if every <= 0 {
		every = time.Second
	}
	return &logSinks{
		every: every, clusters: clusters, stats: reg, node: node, collectors: map[string]*logCollector{}, log: log, files: map[string]*logFile{},
	}
}

// flush writes what every file has got, and returns when that is done.
func (s *logSinks) flush() {
	s.mu.Lock()
	files := slices.Collect(maps.Values(s.files))
	s.mu.Unlock()
	for _, f := range files {
		f.flush()
	}
}

// Close flushes and closes every file, and sends what collectors have not got yet.
func (s *logSinks) Close() {
	s.mu.Lock()
	collectors := s.collectors
	s.collectors = nil
	s.mu.Unlock()
	for _, c := range collectors {
		c.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		f.close()
	}
}

func (s *logSinks) open(path string) (*logFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.files[path]; ok {
		return f, nil
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil && (path == "/dev/stdout" || path == "/dev/stderr") {
		// A socket as standard output cannot be opened by name.
		std := map[string]*os.File{"/dev/stdout": os.Stdout, "/dev/stderr": os.Stderr}[path]
		out, err = std, nil
	}
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	f := newLogFile(out, s.every, s.log)
	s.files[path] = f
	return f, nil
}

// logger is one configured access log.
type logger struct {
	node  *corev3.Node
	keep  accesslog.Filter
	write func(*accesslog.Entry)
}

var _ hcm.Logger = (*logger)(nil)

// Log implements hcm.Logger.
func (l *logger) Log(e *accesslog.Entry) {
	e.Node = l.node
	if l.keep.Keeps(e) {
		l.write(e)
	}
}

// loggers compiles a list of access logs.
func (s *logSinks) loggers(list []*accesslogv3.AccessLog) ([]hcm.Logger, error) {
	var out []hcm.Logger
	for _, a := range list {
		if err := fields.Check(a, "name filter typed_config"); err != nil {
			return nil, err
		}
		keep, err := accesslog.CompileFilter(a.GetFilter())
		if err != nil {
			return nil, fmt.Errorf("access log %q: filter: %w", a.GetName(), err)
		}
		write, err := s.writer(a)
		if err != nil {
			return nil, fmt.Errorf("access log %q: %w", a.GetName(), err)
		}
		out = append(out, &logger{node: s.node, keep: keep, write: write})
	}
	return out, nil
}

// writer makes what takes the entries of one access log.
func (s *logSinks) writer(a *accesslogv3.AccessLog) (func(*accesslog.Entry), error) {
	body := a.GetTypedConfig()
	switch url := body.GetTypeUrl(); url {
	case registry.FileAccessLog:
		p := &filelogv3.FileAccessLog{}
		if err := body.UnmarshalTo(p); err != nil {
			return nil, err
		}
		format, err := logFormat(p)
		if err != nil {
			return nil, err
		}
		return s.toFile(p.GetPath(), format)
	case registry.StdoutAccessLog, registry.StderrAccessLog:
		path, p := "/dev/stdout", &streamv3.StdoutAccessLog{}
		if url == registry.StderrAccessLog {
			path = "/dev/stderr"
		}
		// Both messages have the same one field.
		if err := proto.Unmarshal(body.GetValue(), p); err != nil {
			return nil, err
		}
		format, err := accesslog.CompileText(accesslog.DefaultText)
		if f := p.GetLogFormat(); f != nil {
			format, err = accesslog.Compile(f)
		}
		if err != nil {
			return nil, err
		}
		return s.toFile(path, format)
	case registry.HTTPGrpcAccessLog, registry.TCPGrpcAccessLog, registry.OTelAccessLog:
		return s.collector(body)
	default:
		return nil, fields.UnsupportedType("access log", a.GetName(), url)
	}
}

func (s *logSinks) toFile(path string, format *accesslog.Formatter) (func(*accesslog.Entry), error) {
	file, err := s.open(path)
	if err != nil {
		return nil, err
	}
	return func(e *accesslog.Entry) { file.write(format.Format(e)) }, nil
}

func logFormat(p *filelogv3.FileAccessLog) (*accesslog.Formatter, error) {
	if f := p.GetLogFormat(); f != nil {
		return accesslog.Compile(f)
	}
	//nolint:staticcheck // deprecated, still legal
	if t := p.GetFormat(); t != "" {
		return accesslog.CompileText(t)
	}
	//nolint:staticcheck // deprecated, still legal
	if j := p.GetTypedJsonFormat(); j != nil {
		return accesslog.Compile(&corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: j}})
	}
	return accesslog.CompileText(accesslog.DefaultText)
}
