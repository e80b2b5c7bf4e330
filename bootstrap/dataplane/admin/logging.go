package admin

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
)

// loggerName is the one logger that this proxy has. Envoy has one for each of its components.
const loggerName = "envoy"

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

// logging shows the level of the one logger and changes it: ?level=LEVEL for every logger, ?envoy=LEVEL or
// ?paths=envoy:LEVEL for this one.
func (s *Server) logging(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if len(q) > 1 {
		http.Error(w, "usage: /logging?level=LEVEL, /logging?LOGGER=LEVEL or /logging?paths=LOGGER:LEVEL,...", http.StatusBadRequest)
		return
	}
	for key, values := range q {
		level, err := s.wanted(key, values[len(values)-1])
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if s.cfg.Level == nil {
			http.Error(w, "the log level cannot be changed: this proxy runs with a logger that it was given", http.StatusNotImplemented)
			return
		}
		before := levelName(s.cfg.Level.Level())
		s.cfg.Level.Set(level)
		s.cfg.Log.Info("log level", "was", before, "is", levelName(level))
	}
	now := s.cfg.LogLevel
	if s.cfg.Level != nil {
		now = levelName(s.cfg.Level.Level())
	}
	say(w, "active loggers:\n  "+loggerName+": "+now+"\n")
}

// wanted reads one parameter of /logging.
func (s *Server) wanted(key, value string) (slog.Level, error) {
	switch key {
	case "level", loggerName:
		return ParseLevel(value)
	case "paths":
		var level slog.Level
		for pair := range strings.SplitSeq(value, ",") {
			name, l, _ := strings.Cut(pair, ":")
			if name != loggerName {
				return 0, fmt.Errorf("logger %q: this proxy has only %q", name, loggerName)
			}
			var err error
			if level, err = ParseLevel(l); err != nil {
				return 0, err
			}
		}
		return level, nil
	}
	return 0, fmt.Errorf("logger %q: this proxy has only %q", key, loggerName)
}
