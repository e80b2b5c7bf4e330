package dataplane

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// defaultLogFormat is Envoy's, for loggers that give none.
const defaultLogFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% " +
	"\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"

// logSinks are the files that access logs go to, one writer per path, flushed together.
type logSinks struct {
	log   *slog.Logger
	mu    sync.Mutex
	files map[string]*logFile
	stop  chan struct{}
	done  chan struct{}
}

func newLogSinks(every time.Duration, log *slog.Logger) *logSinks {
	if every <= 0 {
		every = time.Second
	}
	s := &logSinks{log: log, files: map[string]*logFile{}, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				s.flush()
			case <-s.stop:
				s.flush()
				return
			}
		}
	}()
	return s
}

func (s *logSinks) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		f.flush()
	}
}

// Close flushes and closes every file.
func (s *logSinks) Close() {
	close(s.stop)
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		_ = f.out.Close()
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
	f := &logFile{out: out, log: s.log}
	s.files[path] = f
	return f, nil
}

const flushAt = 64 << 10

type logFile struct {
	mu  sync.Mutex
	buf bytes.Buffer
	out *os.File
	log *slog.Logger
}

func (f *logFile) write(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf.Write(line)
	if f.buf.Len() >= flushAt {
		f.flushLocked()
	}
}

func (f *logFile) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushLocked()
}

func (f *logFile) flushLocked() {
	if f.buf.Len() == 0 {
		return
	}
	if _, err := f.out.Write(f.buf.Bytes()); err != nil {
		f.log.Warn("write access log", "err", err)
	}
	f.buf.Reset()
}

// fileLogger is one configured access log.
type fileLogger struct {
	file   *logFile
	format *accesslog.Formatter
	keep   func(*accesslog.Entry) bool
}

var _ hcm.Logger = (*fileLogger)(nil)

// Log implements hcm.Logger.
func (l *fileLogger) Log(e *accesslog.Entry) {
	if l.keep == nil || l.keep(e) {
		l.file.write(l.format.Format(e))
	}
}

// loggers compiles a list of access logs.
func (s *logSinks) loggers(list []*accesslogv3.AccessLog) ([]hcm.Logger, error) {
	var out []hcm.Logger
	for _, a := range list {
		if url := a.GetTypedConfig().GetTypeUrl(); url != registry.FileAccessLog {
			return nil, fields.UnsupportedType("access log", a.GetName(), url)
		}
		p := &filelogv3.FileAccessLog{}
		if err := a.GetTypedConfig().UnmarshalTo(p); err != nil {
			return nil, err
		}
		l := &fileLogger{}
		var err error
		if l.format, err = logFormat(p); err != nil {
			return nil, fmt.Errorf("access log %q: %w", a.GetName(), err)
		}
		if l.keep, err = logFilter(a.GetFilter()); err != nil {
			return nil, err
		}
		if l.file, err = s.open(p.GetPath()); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
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
	return accesslog.CompileText(defaultLogFormat)
}

// logFilter gives nil for a log that keeps everything.
func logFilter(f *accesslogv3.AccessLogFilter) (func(*accesslog.Entry) bool, error) {
	switch t := f.GetFilterSpecifier().(type) {
	case nil:
		return nil, nil
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		want := t.ResponseFlagFilter.GetFlags()
		return func(e *accesslog.Entry) bool {
			if len(want) == 0 {
				return e.Flags != 0
			}
			for have := range strings.SplitSeq(e.Flags.String(), ",") {
				if slices.Contains(want, have) {
					return true
				}
			}
			return false
		}, nil
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		c := t.StatusCodeFilter.GetComparison()
		v := int(c.GetValue().GetDefaultValue())
		return func(e *accesslog.Entry) bool {
			switch c.GetOp() {
			case accesslogv3.ComparisonFilter_GE:
				return e.ResponseCode >= v
			case accesslogv3.ComparisonFilter_LE:
				return e.ResponseCode <= v
			case accesslogv3.ComparisonFilter_NE:
				return e.ResponseCode != v
			default:
				return e.ResponseCode == v
			}
		}, nil
	case *accesslogv3.AccessLogFilter_AndFilter:
		return logFilters(t.AndFilter.GetFilters(), false)
	case *accesslogv3.AccessLogFilter_OrFilter:
		return logFilters(t.OrFilter.GetFilters(), true)
	default:
		return nil, fields.Unsupported(f, fmt.Sprintf("filter_specifier (%T)", t), "")
	}
}

func logFilters(list []*accesslogv3.AccessLogFilter, or bool) (func(*accesslog.Entry) bool, error) {
	var all []func(*accesslog.Entry) bool
	for _, f := range list {
		c, err := logFilter(f)
		if err != nil {
			return nil, err
		}
		if c != nil {
			all = append(all, c)
		}
	}
	return func(e *accesslog.Entry) bool {
		for _, c := range all {
			if c(e) == or {
				return or
			}
		}
		return !or
	}, nil
}
