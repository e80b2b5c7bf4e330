package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// fakePayload makes a payload whose programs are their own names, repeated to an odd length.
func fakePayload(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "payload")
	write := func(name string, body []byte) {
		t.Helper()
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, body, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"ropes-node", "ropes-proxy", "pilot-discovery", "ropes-app", "pause", "nft"} {
		write("bin/"+p, bytes.Repeat([]byte(p+"\n"), 777))
	}
	write("share/envoy_bootstrap_tmpl.json", []byte("{}"))
	write("host/usr/sbin/nft", []byte("nft"))
	write("host/usr/lib/x86_64-linux-gnu/libnftables.so.1.1.0", []byte("lib"))
	for link, to := range map[string]string{"lib64": "usr/lib64", "usr/lib/x86_64-linux-gnu/libnftables.so.1": "libnftables.so.1.1.0"} {
		if err := os.Symlink(to, filepath.Join(dir, "host", filepath.FromSlash(link))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func serve(t *testing.T, payload string) (*Catalog, string) {
	t.Helper()
	c := New(payload, slog.New(slog.DiscardHandler))
	srv := httptest.NewServer(c.Handler())
	t.Cleanup(srv.Close)
	return c, strings.TrimPrefix(srv.URL, "http://")
}

// pull fetches an image as a client would that has our registry as mirror.
func pull(t *testing.T, addr, ref string) v1.Image {
	t.Helper()
	_, rest, _ := strings.Cut(ref, "/")
	r, err := name.ParseReference(addr+"/"+rest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return img
}

// files flattens the image's layers: name to contents, or to "-> target". The client
// compares what it reads with the layers' digests.
func files(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		tr := tar.NewReader(rc)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeSymlink {
				b = []byte("-> " + h.Linkname)
			}
			all[h.Name] = string(b)
		}
		rc.Close()
	}
	return all
}

func TestEveryImagePullsAndIsValid(t *testing.T) {
	c, addr := serve(t, fakePayload(t))
	for _, ref := range c.Refs() {
		t.Run(ref, func(t *testing.T) {
			img := pull(t, addr, ref)
			if err := validate.Image(img, validate.Fast); err != nil { // the full one takes no plain tar
				t.Fatal(err)
			}
			cfg, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if cfg.OS != "linux" || cfg.Architecture != runtime.GOARCH {
				t.Errorf("platform %s/%s", cfg.OS, cfg.Architecture)
			}
			// The entrypoint must lead, through links, to a program of the payload.
			all := files(t, img)
			at := strings.TrimPrefix(cfg.Config.Entrypoint[0], "/")
			if to, ok := strings.CutPrefix(all[at], "-> /"); ok {
				at = to
			}
			if prog := filepath.Base(at); !strings.HasPrefix(all[at], prog+"\n") {
				t.Errorf("entrypoint %v is not a program of the payload", cfg.Config.Entrypoint)
			}
		})
	}
}

func TestKubeadmDefaultNames(t *testing.T) {
	c, _ := serve(t, fakePayload(t))
	want := []string{
		"registry.k8s.io/coredns/coredns:v1.14.2", "registry.k8s.io/etcd:3.6.8-0", "registry.k8s.io/kube-apiserver:v1.36.3",
		"registry.k8s.io/kube-controller-manager:v1.36.3", "registry.k8s.io/kube-proxy:v1.36.3",
		"registry.k8s.io/kube-scheduler:v1.36.3", "registry.k8s.io/pause:3.10.2",
		"ropes.local/app:v1", "ropes.local/istio/pilot:1.31", "ropes.local/istio/proxyv2:1.31",
		"ropes.local/metrics-server:v0.9.0", "ropes.local/node:v1",
	}
	if diff := cmp.Diff(want, c.Refs()); diff != "" {
		t.Error(diff)
	}
}

func TestContents(t *testing.T) {
	_, addr := serve(t, fakePayload(t))
	for _, tc := range []struct{ ref, at, want string }{
		{"registry.k8s.io/kube-proxy:v1.36.3", "usr/sbin/nft", "nft"},
		{"registry.k8s.io/kube-proxy:v1.36.3", "lib64", "-> usr/lib64"},
		{"registry.k8s.io/kube-proxy:v1.36.3", "etc/protocols", protocols},
		{"registry.k8s.io/kube-proxy:v1.36.3", "usr/lib/x86_64-linux-gnu/libnftables.so.1", "-> libnftables.so.1.1.0"},
		{"ropes.local/node:v1", "usr/sbin/nft", "nft"},
		{"ropes.local/app:v1", "bin", "-> usr/bin"},
		{"ropes.local/app:v1", "usr/bin/sh", "-> /usr/local/bin/ropes-app"},
		{"ropes.local/istio/proxyv2:1.31", "usr/local/bin/envoy", "-> /usr/local/bin/ropes-proxy"},
		{"ropes.local/istio/proxyv2:1.31", "var/lib/istio/envoy/envoy_bootstrap_tmpl.json", "{}"},
		{"registry.k8s.io/coredns/coredns:v1.14.2", "coredns", "-> /usr/local/bin/ropes-node"},
	} {
		if got := files(t, pull(t, addr, tc.ref))[tc.at]; got != tc.want {
			t.Errorf("%s: %s = %q, want %q", tc.ref, tc.at, got, tc.want)
		}
	}
}

func digests(t *testing.T, img v1.Image) []string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var ds []string
	for _, l := range m.Layers {
		ds = append(ds, l.Digest.String())
	}
	return ds
}

func TestProgramLayerIsShared(t *testing.T) {
	_, addr := serve(t, fakePayload(t))
	api, etcd := digests(t, pull(t, addr, "registry.k8s.io/kube-apiserver:v1.36.3")), digests(t, pull(t, addr, "registry.k8s.io/etcd:3.6.8-0"))
	if diff := cmp.Diff(api[:2], etcd[:2]); diff != "" {
		t.Errorf("base and program layers differ: %s", diff)
	}
	if api[2] == etcd[2] {
		t.Error("layers of links are the same")
	}
}

func TestDigestsAreStableAndFollowThePayload(t *testing.T) {
	a, b := fakePayload(t), fakePayload(t)
	_, addrA := serve(t, a)
	_, addrB := serve(t, b)
	const ref = "ropes.local/app:v1"
	first := digests(t, pull(t, addrA, ref))
	if diff := cmp.Diff(first, digests(t, pull(t, addrB, ref))); diff != "" {
		t.Errorf("the same payload gives other digests: %s", diff)
	}
	if err := os.WriteFile(filepath.Join(a, "bin", "ropes-app"), []byte("new program"), 0o755); err != nil {
		t.Fatal(err)
	}
	img := pull(t, addrA, ref)
	if slices.Equal(first, digests(t, img)) {
		t.Error("a new program gives the same digests")
	}
	if got := files(t, img)["usr/local/bin/ropes-app"]; got != "new program" {
		t.Errorf("program is %q", got)
	}
}

func TestLargeDigestIsKeptBesideThePayload(t *testing.T) {
	dir := fakePayload(t)
	p := filepath.Join(dir, "bin", "ropes-app")
	if err := os.WriteFile(p, make([]byte, smallLayer), 0o755); err != nil {
		t.Fatal(err)
	}
	_, addr := serve(t, dir)
	want := digests(t, pull(t, addr, "ropes.local/app:v1"))
	kept, err := os.ReadFile(dir + ".layers.json")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(kept), strings.TrimPrefix(want[1], "sha256:")) && !strings.Contains(string(kept), want[1]) {
		t.Errorf("%s is not in %s", want[1], kept)
	}
	// A second catalog takes the digest from there: a planted one shows up.
	planted := strings.Repeat("ab", 32)
	spoiled := strings.ReplaceAll(string(kept), strings.TrimPrefix(want[1], "sha256:"), planted)
	if err := os.WriteFile(dir+".layers.json", []byte(spoiled), 0o644); err != nil {
		t.Fatal(err)
	}
	_, addr2 := serve(t, dir)
	if got := digests(t, pull(t, addr2, "ropes.local/app:v1")); got[1] != "sha256:"+planted {
		t.Errorf("layer digest %s, want the one in the cache file", got[1])
	}
	// A spoiled file is as good as none.
	if err := os.WriteFile(dir+".layers.json", []byte("{half"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, addr3 := serve(t, dir)
	if diff := cmp.Diff(want, digests(t, pull(t, addr3, "ropes.local/app:v1"))); diff != "" {
		t.Error(diff)
	}
}

func TestDistributionAPI(t *testing.T) {
	dir := fakePayload(t)
	if err := os.Remove(filepath.Join(dir, "bin", "pilot-discovery")); err != nil {
		t.Fatal(err)
	}
	_, addr := serve(t, dir)
	img := pull(t, addr, "ropes.local/app:v1")
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := digests(t, img)[1]
	for _, tc := range []struct {
		name, method, path, rng string
		status                  int
		header, value           string
		code                    string
		size                    int
	}{
		{name: "ping", path: "/v2/", status: 200, header: "Docker-Distribution-Api-Version", value: "registry/2.0", size: 2},
		{name: "tag", path: "/v2/app/manifests/v1", status: 200, header: "Docker-Content-Digest", value: digest.String(), size: -1},
		{name: "head tag", method: "HEAD", path: "/v2/app/manifests/v1", status: 200, header: "Content-Type", value: "application/vnd.oci.image.manifest.v1+json"},
		{name: "digest", path: "/v2/app/manifests/" + digest.String(), status: 200, size: -1},
		{name: "mirror", path: "/v2/app/manifests/v1?ns=ropes.local", status: 200, size: -1},
		{name: "mirror of another host", path: "/v2/app/manifests/v1?ns=docker.io", status: 404, code: "NAME_UNKNOWN", size: -1},
		{name: "unknown image", path: "/v2/library/nginx/manifests/latest", status: 404, code: "NAME_UNKNOWN", size: -1},
		{name: "unknown tag", path: "/v2/app/manifests/v2", status: 404, code: "MANIFEST_UNKNOWN", size: -1},
		{name: "payload without the program", path: "/v2/istio/pilot/manifests/1.31", status: 404, code: "MANIFEST_UNKNOWN", size: -1},
		{name: "blob", path: "/v2/app/blobs/" + blob, status: 200, header: "Docker-Content-Digest", value: blob, size: -1},
		{name: "blob of another image", path: "/v2/pause/blobs/" + blob, status: 404, code: "BLOB_UNKNOWN", size: -1},
		{name: "range across a border", path: "/v2/app/blobs/" + blob, rng: "bytes=500-1535", status: 206, size: 1036},
		{name: "push", method: "PUT", path: "/v2/app/manifests/v1", status: 405, code: "UNSUPPORTED", size: -1},
		{name: "not the API", path: "/", status: 404, code: "UNSUPPORTED", size: -1},
		{name: "tags", path: "/v2/app/tags/list", status: 404, code: "UNSUPPORTED", size: -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+addr+tc.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.rng != "" {
				req.Header.Set("Range", tc.rng)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", res.StatusCode, tc.status, body)
			}
			if tc.header != "" && res.Header.Get(tc.header) != tc.value {
				t.Errorf("%s: %q, want %q", tc.header, res.Header.Get(tc.header), tc.value)
			}
			if tc.size >= 0 && len(body) != tc.size {
				t.Errorf("%d bytes, want %d", len(body), tc.size)
			}
			if tc.code != "" && !strings.Contains(string(body), `"`+tc.code+`"`) {
				t.Errorf("body %s lacks code %s", body, tc.code)
			}
		})
	}
}

// TestLayerIsNotHeldInMemory serves a layer far larger than what may be allocated meanwhile.
func TestLayerIsNotHeldInMemory(t *testing.T) {
	dir := fakePayload(t)
	f, err := os.Create(filepath.Join(dir, "bin", "ropes-node"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20 // sparse: takes no room on disk
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	c := New(dir, slog.New(slog.DiscardHandler))
	img, err := c.image(c.lookup("", "kube-apiserver")[0])
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	l := img.layers[1].open()
	n, err := io.Copy(io.Discard, struct{ io.Reader }{l})
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n != img.layers[1].size || n <= size {
		t.Errorf("read %d bytes, layer is %d", n, img.layers[1].size)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("allocated %d bytes to read %d", got, n)
	}
}

func TestShortenedFileIsAnError(t *testing.T) {
	dir := fakePayload(t)
	c := New(dir, slog.New(slog.DiscardHandler))
	img, err := c.image(c.lookup("", "app")[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "bin", "ropes-app"), 10); err != nil {
		t.Fatal(err)
	}
	l := img.layers[1].open()
	defer l.Close()
	if _, err := io.Copy(io.Discard, l); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("err = %v, want unexpected EOF", err)
	}
}

func TestWriteArchive(t *testing.T) {
	c := New(fakePayload(t), slog.New(slog.DiscardHandler))
	refs := []string{"registry.k8s.io/kube-apiserver:v1.36.3", "registry.k8s.io/etcd:3.6.8-0"}
	var b bytes.Buffer
	if err := c.WriteArchive(t.Context(), &b, refs...); err != nil {
		t.Fatal(err)
	}
	members := map[string][]byte{}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if members[h.Name] != nil {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		if members[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			if sum, _, err := v1.SHA256(bytes.NewReader(members[h.Name])); err != nil || sum.Hex != hex {
				t.Errorf("%s: contents have digest %s (%v)", h.Name, sum, err)
			}
		}
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(members["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, d := range index.Manifests {
		named = append(named, d.Annotations["io.containerd.image.name"])
		if members[blobPath(d.Digest)] == nil {
			t.Errorf("manifest %s is missing", d.Digest)
		}
	}
	if diff := cmp.Diff(refs, named); diff != "" {
		t.Error(diff)
	}
	var docker []dockerManifest
	if err := json.Unmarshal(members["manifest.json"], &docker); err != nil {
		t.Fatal(err)
	}
	for _, m := range docker {
		for _, p := range append(m.Layers, m.Config) {
			if members[p] == nil {
				t.Errorf("%s is missing", p)
			}
		}
	}
	if err := c.WriteArchive(t.Context(), io.Discard, "ropes.local/nothing:v1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("err = %v, want ErrUnknown", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WriteArchive(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want canceled", err)
	}
}
