package kind

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/bootstrap"
)

// TestPodmanNames: Podman resolves no short names where nobody can be asked, takes no tag
// beside a digest, and takes further names of a save for tags of the first image.
func TestPodmanNames(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for name, tt := range map[string]struct{ given, want string }{
		"docker":  {"kindest/node:v1" + digest, "kindest/node:v1" + digest},
		"nerdctl": {"kindest/node:v1" + digest, "kindest/node:v1" + digest},
		"podman":  {"kindest/node:v1" + digest, "docker.io/kindest/node" + digest},
	} {
		t.Run(name, func(t *testing.T) {
			var ran []string
			there := false
			e := &Engine{Name: name, binary: name, run: func(_ context.Context, c command) error {
				ran = append(ran, strings.Join(c.args, " "))
				if c.args[0] == "image" && !there {
					return said("no such image")
				}
				return nil
			}}
			if err := e.haveImage(t.Context(), tt.given, func(string) {}); err != nil {
				t.Fatal(err)
			}
			there = true
			if err := e.tag(t.Context(), tt.given, "ropes.local/kind-node:1"); err != nil {
				t.Fatal(err)
			}
			if err := e.save(t.Context(), io.Discard, "docker.io/istio/pilot:1", "docker.io/istio/proxyv2:1"); err != nil {
				t.Fatal(err)
			}
			save := "save docker.io/istio/pilot:1 docker.io/istio/proxyv2:1"
			if name == "podman" {
				save = strings.Replace(save, "save", "save --multi-image-archive", 1)
			}
			want := []string{"image inspect --format {{.Id}} " + tt.want, "pull " + tt.want, "tag " + tt.want + " ropes.local/kind-node:1", save}
			if diff := cmp.Diff(want, ran); diff != "" {
				t.Error(diff)
			}
		})
	}
	podman := &Engine{Name: "podman"}
	for given, want := range map[string]string{
		"busybox":                      "docker.io/library/busybox",
		"kindest/node:v1":              "docker.io/kindest/node:v1",
		"localhost/node:v1":            "localhost/node:v1",
		"host:5000/node":               "host:5000/node",
		"host:5000/node" + digest:      "host:5000/node" + digest,
		"ropes.local/kind-node:123":    "ropes.local/kind-node:123",
		"quay.io/kind/node:v" + digest: "quay.io/kind/node" + digest,
	} {
		if got := podman.ref(given); got != want {
			t.Errorf("%s: %s, want %s", given, got, want)
		}
	}
}

// TestAskedEngine: the environment names the engine as it does for kind, which heeds the
// names that it knows.
func TestAskedEngine(t *testing.T) {
	have := map[string]string{"docker": "Docker version 28", "podman": "podman version 5.0", "nerdctl.lima": "nerdctl version 2"}
	for name, tt := range map[string]struct{ asked, want, says string }{
		"none":          {"", "docker docker", ""},
		"podman":        {"podman", "podman podman", ""},
		"lima":          {"nerdctl.lima", "nerdctl nerdctl.lima", ""},
		"not installed": {"finch", "", "KIND_EXPERIMENTAL_PROVIDER=finch, and finch is not installed"},
		"unknown":       {"dokcer", "docker docker", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Detect(t.Context(), func(string) string { return tt.asked }, func(_ context.Context, c command) error {
				if have[c.name] == "" {
					return said("no such program")
				}
				_, err := io.WriteString(c.stdout, have[c.name])
				return err
			})
			if tt.says != "" {
				says(t, err, tt.says, "unset")
				return
			}
			if err != nil || e.Name+" "+e.binary != tt.want {
				t.Errorf("%+v, %v; want %s", e, err, tt.want)
			}
		})
	}
}

// TestEngineElsewhere: what kind publishes is on the loopback of the engine's machine.
func TestEngineElsewhere(t *testing.T) {
	for host, fatal := range map[string]bool{
		"unix:///var/run/docker.sock":      false,
		"npipe:////./pipe/docker_engine":   false,
		"tcp://localhost:2375":             false,
		"tcp://127.0.0.1:2375":             false,
		"tcp://[::1]:2375":                 false,
		"":                                 false,
		"tcp://192.0.2.7:2376":             true,
		"ssh://me@192.0.2.7":               true,
		"ssh://me@build.invalid:22/a.sock": true,
	} {
		b := newBench(t)
		b.docker.host = host
		f := b.Doctor(t.Context())[0]
		if (f.Severity == bootstrap.Fatal) != fatal || fatal && (!strings.Contains(f.Detail, host) || !strings.Contains(f.Mend, "DOCKER_HOST")) {
			t.Errorf("%s: %+v", host, f)
		}
	}
}
