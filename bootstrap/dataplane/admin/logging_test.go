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

func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	loggers := NewLoggers(&out, slog.LevelWarn)
	if err := loggers.SetComponents("misc:error,rbac:debug"); err != nil {
		t.Fatal(err)
	}
	s := New(Config{Log: loggers.Get("admin"), Loggers: loggers})
	for _, step := range []struct{ query, http, rbac string }{
		{"", "warning", "debug"},
		{"?level=error", "error", "error"},
		{"?http=trace", "trace", "error"},
		{"?paths=rbac:info,http:OFF", "off", "info"},
		{"?level=WARN", "warning", "warning"},
	} {
		code, body := ask(s, http.MethodPost, "/logging"+step.query)
		if code != http.StatusOK || !strings.HasPrefix(body, "active loggers:\n  admin: ") || !strings.Contains(body, "  http: "+step.http+"\n") ||
			!strings.Contains(body, "  rbac: "+step.rbac+"\n") {
			t.Errorf("%s: %d %q", step.query, code, body)
		}
		for name, want := range map[string]string{"http": step.http, "rbac": step.rbac} {
			level, err := ParseLevel(want)
			if err != nil {
				t.Fatal(err)
			}
			log := loggers.Get(name)
			out.Reset()
			log.Log(t.Context(), level-1, "too low")
			if strings.Contains(out.String(), "too low") {
				t.Errorf("%s: %s lets through what is below %s", step.query, name, want)
			}
			log.Log(t.Context(), level, "enough")
			if !strings.Contains(out.String(), `scope="envoy `+name+`"`) {
				t.Errorf("%s: %s at %s wrote %q", step.query, name, want, out.String())
			}
		}
	}
	for query, says := range map[string]string{
		"?level=loud": "loud", "?nobody=info": "nobody", "?paths=http:info,nobody:info": "nobody", "?paths=http:loud": "loud", "?a=info&b=info": "usage",
	} {
		if code, body := ask(s, http.MethodPost, "/logging"+query); code != http.StatusBadRequest || !strings.Contains(body, says) {
			t.Errorf("%s: %d %q", query, code, body)
		}
	}
	if _, body := ask(s, http.MethodPost, "/logging"); !strings.Contains(body, "  http: warning\n") {
		t.Errorf("a bad request has changed a level: %s", body)
	}
	if code, _ := ask(s, http.MethodGet, "/logging"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET gave %d", code)
	}
	if code, _ := ask(New(Config{}), http.MethodPost, "/logging"); code != http.StatusNotImplemented {
		t.Errorf("without loggers: %d", code)
	}
}
