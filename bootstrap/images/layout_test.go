package images

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestImagesBesideThePayload(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	c := New(fakePayload(t), slog.New(slog.DiscardHandler))
	c.Beside(dir)
	srv := httptest.NewServer(c.Handler())
	t.Cleanup(srv.Close)
	addr := strings.TrimPrefix(srv.URL, "http://")
	get := func(path string) int {
		res, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if code := get("/v2/team/tool/manifests/v2?ns=example.com"); code != http.StatusNotFound {
		t.Errorf("without a layout: status %d", code)
	}

	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]v1.Image{}
	for _, ref := range []string{"example.com/team/tool:v1", "example.com/team/tool:v2", "ropes.local/app:mine"} {
		img, err := random.Image(3000, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{RefAnnotation: ref})); err != nil {
			t.Fatal(err)
		}
		want[ref] = img
	}
	for ref, img := range want {
		pulled := pull(t, addr, ref)
		if err := validate.Image(pulled); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		a, _ := img.Digest()
		if b, _ := pulled.Digest(); a != b {
			t.Errorf("%s: digest %s, want %s", ref, b, a)
		}
		if code := get("/v2/" + strings.TrimPrefix(ref[strings.IndexByte(ref, '/'):strings.LastIndexByte(ref, ':')], "/") + "/manifests/" + a.String()); code != http.StatusOK {
			t.Errorf("%s by digest: status %d", ref, code)
		}
	}
	for path, code := range map[string]int{
		"/v2/team/tool/manifests/v2?ns=example.com":       http.StatusOK,
		"/v2/team/tool/manifests/v2?ns=elsewhere.com":     http.StatusNotFound,
		"/v2/team/tool/manifests/v3?ns=example.com":       http.StatusNotFound,
		"/v2/team/tool/blobs/sha256:../../index.json":     http.StatusNotFound,
		"/v2/team/other/manifests/v1?ns=example.com":      http.StatusNotFound,
		"/v2/app/manifests/" + AppTag + "?ns=ropes.local": http.StatusOK, // of the payload
	} {
		if got := get(path); got != code {
			t.Errorf("%s: status %d, want %d", path, got, code)
		}
	}
}
