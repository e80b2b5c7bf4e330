package apiclient

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
)

func TestNewFromKubeconfig(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"gitVersion": "v1.2.3"}`))
	}))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	body := `{apiVersion: v1, kind: Config, current-context: c,
clusters: [{name: c, cluster: {server: "` + server.URL + `"}}], contexts: [{name: c, context: {cluster: c}}]}`
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := New(path)
	if err != nil {
		t.Fatal(err)
	}
	v, err := client.Discovery().ServerVersion()
	if err != nil || v.GitVersion != "v1.2.3" {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestNewOutsideAPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := New(""); !errors.Is(err, rest.ErrNotInCluster) {
		t.Errorf("error %v, want %v", err, rest.ErrNotInCluster)
	}
	if _, err := New(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want one that says the file is not there", err)
	}
}
