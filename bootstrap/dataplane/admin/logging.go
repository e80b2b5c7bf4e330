package admin

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// levels are Envoy's level names with what they mean here, lowest first.
var levels = []struct {
	name  string
	level slog.Level
}{
	{"trace", slog.LevelDebug - 4},
	{"debug", slog.LevelDebug},
	{"info", slog.LevelInfo},
	{"warning", slog.LevelWarn},
	{"error", slog.LevelError},
	{"critical", slog.LevelError + 4},
	{"off", math.MaxInt},
}

// ParseLevel reads one of Envoy's level names, whatever its case.
func ParseLevel(text string) (slog.Level, error) {
	name := strings.ToLower(text)
	if name == "warn" {
		name = "warning"
	}
	var names []string
	for _, l := range levels {
		if l.name == name {
			return l.level, nil
		}
		names = append(names, l.name)
	}
	return 0, fmt.Errorf("log level %q: not one of %s", text, strings.Join(names, ", "))
}

// levelName is the name of the least severe level that still gets through at l.
func levelName(l slog.Level) string {
	for _, known := range levels {
		if l <= known.level {
			return known.name
		}
	}
	return "off"
}

// Loggers are the loggers of the proxy's parts, under the names that Envoy has for these parts, each with a level of its
// own that can be changed at any time.
type Loggers struct {
	out    slog.Handler
	mu     sync.Mutex
	levels map[string]*slog.LevelVar
}

// NewLoggers returns loggers that write lines of text to w, all at one level.
func NewLoggers(w io.Writer, level slog.Level) *Loggers {
	l := &Loggers{out: slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.Level(math.MinInt)}), levels: map[string]*slog.LevelVar{}}
	for _, name := range []string{"admin", "config", "conn_handler", "file", "http", "main", "rbac", "tracing", "upstream"} {
		l.levels[name] = new(slog.LevelVar)
		l.levels[name].Set(level)
	}
	return l
}

// Get returns the logger of a part, "main" where there is no such part.
func (l *Loggers) Get(name string) *slog.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.levels[name]
	if !ok {
		name, v = "main", l.levels["main"]
	}
	return slog.New(leveled{l.out, v}).With("scope", "envoy "+name)
}

// Set changes the level of one logger, or of all where name is empty.
func (l *Loggers) Set(name string, level slog.Level) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "" {
		for _, v := range l.levels {
			v.Set(level)
		}
		return nil
	}
	v, ok := l.levels[name]
	if !ok {
		return fmt.Errorf("logger %q: this proxy has only %s", name, strings.Join(slices.Sorted(maps.Keys(l.levels)), ", "))
	}
	v.Set(level)
	return nil
}

// SetComponents reads Envoy's --component-log-level: name:level pairs with commas between them. Parts that this proxy
// does not have are passed over.
func (l *Loggers) SetComponents(text string) error {
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(pair, ":")
		if !ok {
			continue
		}
		level, err := ParseLevel(value)
		if err != nil {
			return err
		}
		_ = l.Set(name, level)
	}
	return nil
}

// list shows every logger with its level.
func (l *Loggers) list() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(l.levels)) {
		fmt.Fprintf(&b, "  %s: %s\n", name, levelName(l.levels[name].Level()))
	}
	return b.String()
}

// leveled lets through what reaches a level.
type leveled struct {
	slog.Handler
	level *slog.LevelVar
}

// Enabled implements slog.Handler.
func (h leveled) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// WithAttrs implements slog.Handler.
func (h leveled) WithAttrs(a []slog.Attr) slog.Handler {
	return leveled{h.Handler.WithAttrs(a), h.level}
}

// WithGroup implements slog.Handler.
func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.level}
}

// logging shows the levels and changes them: ?level=LEVEL for every logger, ?LOGGER=LEVEL for one,
// ?paths=LOGGER:LEVEL,... for some.
func (s *Server) logging(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if len(q) > 1 {
		http.Error(w, "usage: /logging?level=LEVEL, /logging?LOGGER=LEVEL or /logging?paths=LOGGER:LEVEL,...", http.StatusBadRequest)
		return
	}
	if s.cfg.Loggers == nil {
		http.Error(w, "log levels cannot be changed: this proxy runs with a logger that it was given", http.StatusNotImplemented)
		return
	}
	for key, values := range q {
		if err := s.setLevels(key, values[len(values)-1]); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	say(w, "active loggers:\n"+s.cfg.Loggers.list())
}

// setLevels carries out one parameter of /logging, all of it or nothing.
func (s *Server) setLevels(key, value string) error {
	switch key {
	case "level":
		level, err := ParseLevel(value)
		if err != nil {
			return err
		}
		return s.cfg.Loggers.Set("", level)
	case "paths":
		s.cfg.Loggers.mu.Lock()
		known := maps.Clone(s.cfg.Loggers.levels)
		s.cfg.Loggers.mu.Unlock()
		wanted := map[string]slog.Level{}
		for pair := range strings.SplitSeq(value, ",") {
			name, text, _ := strings.Cut(pair, ":")
			level, err := ParseLevel(text)
			if err != nil {
				return err
			}
			if known[name] == nil {
				return s.cfg.Loggers.Set(name, level)
			}
			wanted[name] = level
		}
		for name, level := range wanted {
			known[name].Set(level)
		}
		return nil
	}
	level, err := ParseLevel(value)
	if err != nil {
		return err
	}
	return s.cfg.Loggers.Set(key, level)
}
