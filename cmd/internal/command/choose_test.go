package command

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ropes-dev/ropes/bootstrap"
)

// engineless is what kind finds on a machine whose engine does not run.
var engineless = bootstrap.Finding{Check: "container engine", Severity: bootstrap.Fatal, Detail: "docker is installed but does not run", Mend: "sudo systemctl start docker"}

var rootless = bootstrap.Finding{Check: "root", Severity: bootstrap.Fatal, Detail: "running as uid 1000", Mend: "run ropes with sudo"}

// named is a provider under another name.
type named struct {
	bootstrap.Provider
	name string
}

func (n named) Name() string { return n.name }

// withKind puts a provider kind before the bench's own.
func withKind(b *bench, findings ...bootstrap.Finding) *bench {
	kind := *b.provider
	kind.findings = findings
	b.deps.Providers = append([]bootstrap.Provider{named{&kind, "kind"}}, b.deps.Providers...)
	return b
}

func TestChoiceOfProvider(t *testing.T) {
	t.Run("kind where its engine answers", func(t *testing.T) {
		b := withKind(newBench(t))
		if r := b.run("up"); r.code != 0 || !strings.HasPrefix(r.err, "provider kind; --provider takes another\n") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("embedded where it does not", func(t *testing.T) {
		b := withKind(newBench(t), engineless)
		if r := b.run("up"); r.code != 0 || !strings.HasPrefix(r.err, "provider embedded; --provider takes another\n") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("neither", func(t *testing.T) {
		b := withKind(newBench(t), engineless)
		b.provider.findings = []bootstrap.Finding{rootless}
		b.expect(result{"", "ropes: no provider can run on this machine\n" +
			"  kind: container engine: docker is installed but does not run; sudo systemctl start docker\n" +
			"  embedded: root: running as uid 1000; run ropes with sudo\n" +
			"  run ropes with sudo\n", 1}, "up")
	})
	t.Run("by hand", func(t *testing.T) {
		b := withKind(newBench(t), engineless)
		r := b.run("up", "--provider", "kind")
		if r.code != 1 || !strings.Contains(r.err, "provider kind cannot run on this machine\n  container engine: docker is installed but does not run; sudo systemctl start docker") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a flag of kind's means kind", func(t *testing.T) {
		b := withKind(newBench(t), engineless)
		if r := b.run("up", "--bundle", "x"); r.code != 1 || !strings.Contains(r.err, "provider kind cannot run") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("and none other", func(t *testing.T) {
		for flag, value := range map[string]string{"--image": "x", "--bundle": "x", "--images": "registry"} {
			b := withKind(newBench(t))
			if r := b.run("up", "--provider", "embedded", flag, value); r.code != 2 || !strings.Contains(r.err, "goes with --provider kind, not with embedded") {
				t.Errorf("%s: %+v", flag, r)
			}
		}
	})
	t.Run("a cluster that is there", func(t *testing.T) {
		b := withKind(newBench(t))
		b.provider.clusters["ropes"] = clusterOf("ropes", 1, false)
		// Both fakes share their clusters; the first that knows one has it.
		if r := b.run("up"); r.code != 0 || strings.Contains(r.err, "takes another") {
			t.Errorf("%+v", r)
		}
	})
}

// TestImagesOfAClusterThatIsUp: whether they are what it was made of, its provider knows.
func TestImagesOfAClusterThatIsUp(t *testing.T) {
	for flag, value := range map[string]string{"--image": "node:v2", "--images": "builtin", "--bundle": "x"} {
		b := newBench(t)
		b.up()
		if r := b.run("up", flag, value); value != "builtin" && (r.code != 2 || !strings.Contains(r.err, "goes with --provider kind, not with embedded")) {
			t.Errorf("%s on an embedded cluster: %+v", flag, r)
		}
		withKind(b)
		r := b.run("up", flag, value)
		specs := b.deps.Providers[0].(named).Provider.(*fakeProvider).specs
		if spec := specs[len(specs)-1]; r.code != 0 || spec.Image+spec.Images+spec.Bundle != value {
			t.Errorf("%s: %+v, asked for %+v", flag, r, specs)
		}
	}
}

func TestDoctorTellsTheChoice(t *testing.T) {
	b := withKind(newBench(t), engineless)
	r := b.run("doctor")
	want := "Provider kind cannot run here\n✗ container engine: docker is installed but does not run\n    sudo systemctl start docker\n\n" +
		"Provider embedded can run here; ropes up takes it where --provider names no other\n"
	if r.code != 0 || !strings.HasPrefix(r.out, want) {
		t.Errorf("%d\n%s", r.code, cmp.Diff(want, r.out))
	}
}

func TestBundleCreate(t *testing.T) {
	b := newBench(t)
	file := b.home + "/lab.bundle"
	b.deps.Bundle = func(_ context.Context, path string, spec bootstrap.Spec, _ bootstrap.Observer) error {
		if path != file || spec.Image != "node:v1" || spec.Images != "builtin" {
			t.Errorf("%s, %+v", path, spec)
		}
		return os.WriteFile(path, make([]byte, 3<<20), 0o600)
	}
	b.expect(result{"HOME/lab.bundle is written, 3 MB. On a machine without a network: ropes up --bundle HOME/lab.bundle\n", "", 0},
		"bundle", "create", file, "--image", "node:v1", "--images", "builtin")
	b.deps.Bundle = func(context.Context, string, bootstrap.Spec, bootstrap.Observer) error {
		return errors.New("no engine")
	}
	b.expect(result{"", "ropes: no engine\n", 1}, "bundle", "create", file)
	if r := b.run("bundle", "create"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}
