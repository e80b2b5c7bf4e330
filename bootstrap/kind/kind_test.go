package kind

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRegistryAnswers(t *testing.T) {
	const version = "Docker-Distribution-Api-Version"
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		says   string // empty where it is a registry
	}{
		"to a stranger": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(version, "registry/2.0")
			w.WriteHeader(http.StatusUnauthorized)
		}, ""},
		"openly": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(version, "registry/2.0") }, ""},
		"a login page": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				http.Redirect(w, r, "/welcome", http.StatusFound)
			}
		}, "/welcome: answered by something that is no registry"},
		"a proxy that refuses": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "403 Forbidden"},
		"a registry that is down": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(version, "registry/2.0")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, "503 Service Unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(tt.answer)
			defer s.Close()
			err := registryAnswers(t.Context(), s.URL+"/v2/")
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want a word of %q", err, tt.says)
			}
		})
	}
}
