package kind

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kind/pkg/apis/config/defaults"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-golden +rendered; -update accepts):\n%s", file, diff)
	}
}

// TestNodeImage holds our pin against the kind that is linked in.
func TestNodeImage(t *testing.T) {
	if NodeImage != defaults.Image {
		t.Errorf("our node image is %s, kind's %s", NodeImage, defaults.Image)
	}
	if _, digest, ok := strings.Cut(NodeImage, "@sha256:"); !ok || len(digest) != 64 {
		t.Errorf("%s is not pinned by digest", NodeImage)
	}
}

func TestConfig(t *testing.T) {
	r := &record{Name: "ropes", Image: NodeImage, Workers: 2, APIPort: 6443, HTTPPort: 8080, HTTPSPort: 8443}
	config, err := configOf(r)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "cluster.yaml", string(config))
}

// TestUpstreamImages is the list of all that is taken from registries: none of it can be
// pulled where this is tested.
func TestUpstreamImages(t *testing.T) {
	golden(t, "upstream-images.txt", strings.Join(append([]string{NodeImage}, istioImages()...), "\n")+"\n")
}

func TestRenamed(t *testing.T) {
	const given = `apiVersion: v1
kind: Config
current-context: kind-demo
clusters: [{name: kind-demo, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: YQ==}}]
contexts: [{name: kind-demo, context: {cluster: kind-demo, user: kind-demo}}]
users: [{name: kind-demo, user: {client-certificate-data: Yg==, client-key-data: Yw==}}]
`
	got, err := renamed([]byte(given), "ropes-demo")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "kubeconfig.yaml", string(got))
	if _, err := renamed([]byte("kind: Config\napiVersion: v1\n"), "x"); err == nil {
		t.Error("a kubeconfig without a context was taken")
	}
}
