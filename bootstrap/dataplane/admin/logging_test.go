package admin

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func ask(s *Server, method, path string) (int, string) {
	w := httptest.NewRecorder()
	s.srv.Handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func TestLogLevel(t *testing.T) {
	var level slog.LevelVar
	level.Set(slog.LevelWarn)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: &level}))
	s := New(Config{Log: log, Level: &level, LogLevel: "warning"})
	for _, step := range []struct {
		query, shows string
		lets         slog.Level // the lowest level that is written then
	}{
		{"", "warning", slog.LevelWarn},
		{"?level=debug", "debug", slog.LevelDebug},
		{"?envoy=info", "info", slog.LevelInfo},
		{"?paths=envoy:trace", "trace", slog.LevelDebug - 4},
		{"?level=WARN", "warning", slog.LevelWarn},
		{"?level=error", "error", slog.LevelError},
		{"?level=critical", "critical", slog.LevelError + 4},
		{"?level=off", "off", slog.LevelError + 100},
	} {
		code, body := ask(s, http.MethodPost, "/logging"+step.query)
		if code != http.StatusOK || body != "active loggers:\n  envoy: "+step.shows+"\n" {
			t.Errorf("%s: %d %q", step.query, code, body)
		}
		out.Reset()
		log.Log(t.Context(), step.lets-1, "too low")
		if step.shows != "off" {
			log.Log(t.Context(), step.lets, "enough")
		} else {
			log.Log(t.Context(), step.lets, "too low")
		}
		if got := out.String(); strings.Contains(got, "too low") || strings.Contains(got, "enough") != (step.shows != "off") {
			t.Errorf("%s wrote %q", step.query, got)
		}
	}
	for _, bad := range []string{"?level=loud", "?http=debug", "?paths=envoy:debug,http:debug", "?paths=envoy", "?level=info&envoy=debug"} {
		if code, body := ask(s, http.MethodPost, "/logging"+bad); code != http.StatusBadRequest {
			t.Errorf("%s: %d %q", bad, code, body)
		}
	}
	if code, body := ask(s, http.MethodPost, "/logging"); code != http.StatusOK || !strings.Contains(body, "envoy: off") {
		t.Errorf("after refusals: %d %q", code, body)
	}
	if code, _ := ask(s, http.MethodGet, "/logging?level=info"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET gave %d", code)
	}
}

func TestFixedLogLevel(t *testing.T) {
	s := New(Config{Log: slog.New(slog.DiscardHandler), LogLevel: "warning"})
	if code, body := ask(s, http.MethodPost, "/logging"); code != http.StatusOK || !strings.Contains(body, "envoy: warning") {
		t.Errorf("%d %q", code, body)
	}
	if code, body := ask(s, http.MethodPost, "/logging?level=debug"); code != http.StatusNotImplemented || !strings.Contains(body, "cannot be changed") {
		t.Errorf("%d %q", code, body)
	}
}
