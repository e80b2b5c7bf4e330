package istio

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"

	"istio.io/istio/manifests"
	"istio.io/istio/operator/pkg/component"
	"istio.io/istio/operator/pkg/manifest"
	"istio.io/istio/operator/pkg/render"
	"istio.io/istio/operator/pkg/values"
	"istio.io/istio/pkg/kube"
	"sigs.k8s.io/yaml"
)

// Render returns the YAML documents that Install would apply to a cluster of the oldest
// Kubernetes version that this Istio supports, in the order of the components. It asks no cluster.
func Render(cfg Config) ([]string, error) {
	sets, _, err := cfg.withDefaults().render(nil)
	if err != nil {
		return nil, err
	}
	var docs []string
	for _, set := range sets {
		for _, m := range set.Manifests {
			docs = append(docs, m.Content)
		}
	}
	return docs, nil
}

// render has the operator render our IstioOperator. With a client it renders for that
// cluster's version and looks for CNIs that are known not to go with Istio.
func (c Config) render(client kube.Client) (sets []manifest.ManifestSet, merged values.Map, err error) {
	text, err := yaml.Marshal(c.operator())
	if err != nil {
		return nil, nil, fmt.Errorf("encode IstioOperator: %w", err)
	}
	file, discard, err := readable(text)
	if err != nil {
		return nil, nil, fmt.Errorf("hand over IstioOperator: %w", err)
	}
	defer func() { err = errors.Join(err, discard()) }()
	sets, merged, err = render.GenerateManifest([]string{file}, nil, false, client, newLogger(c.Log))
	if err != nil {
		return nil, nil, fmt.Errorf("render Istio's charts: %w", err)
	}
	order := func(name component.Name) int {
		return slices.IndexFunc(component.AllComponents, func(c component.Component) bool { return c.UserFacingName == name })
	}
	slices.SortFunc(sets, func(a, b manifest.ManifestSet) int { return cmp.Compare(order(a.Component), order(b.Component)) })
	// The operator applies in the order that it is given. A Deployment whose service account
	// comes after it finds its first pods refused.
	for _, set := range sets {
		slices.SortStableFunc(set.Manifests, func(a, b manifest.Manifest) int { return cmp.Compare(rank(a), rank(b)) })
	}
	return sets, merged, nil
}

// rank puts Deployments after what their pods need, and webhooks after the Deployments
// that answer them.
func rank(m manifest.Manifest) int {
	switch m.GetKind() {
	case "Deployment":
		return 1
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		return 2
	}
	return 0
}

// readable gives text a file name by which this process can read it once. Files and --set
// flags are the only ways into the operator, and flags cannot say null. A pipe leaves
// nothing behind, even where the process is killed; text must fit into its buffer, of 64 KiB on Linux.
func readable(text []byte) (name string, discard func() error, err error) {
	if runtime.GOOS == "windows" { // which has no names for open files
		f, err := os.CreateTemp("", "ropes-istio-*.yaml")
		if err != nil {
			return "", nil, err
		}
		_, err = f.Write(text)
		discard = func() error { return os.Remove(f.Name()) }
		if err = errors.Join(err, f.Close()); err != nil {
			return "", nil, errors.Join(err, discard())
		}
		return f.Name(), discard, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", nil, err
	}
	_, err = w.Write(text)
	if err = errors.Join(err, w.Close()); err != nil {
		return "", nil, errors.Join(err, r.Close())
	}
	return fmt.Sprintf("/dev/fd/%d", r.Fd()), r.Close, nil
}

// digest stands for all that the installation is made from: our settings and Istio's charts.
func (c Config) digest() (string, error) {
	text, err := yaml.Marshal(c.operator())
	if err != nil {
		return "", fmt.Errorf("encode IstioOperator: %w", err)
	}
	h := sha256.New()
	h.Write(text)
	err = fs.WalkDir(manifests.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := manifests.FS.Open(path)
		if err != nil {
			return err
		}
		_, _ = io.WriteString(h, path+"\n") // a hash does not fail
		_, err = io.Copy(h, f)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return "", fmt.Errorf("read Istio's charts: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
