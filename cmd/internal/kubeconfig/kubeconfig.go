// Package kubeconfig knows the learner's kubeconfig files: which one kubectl would
// write to, how a cluster's entries are merged into it and taken out again. It edits the
// YAML tree, so entries, comments and fields that it does not know stay as they are.
// It knows neither providers nor how a cluster is reached.
package kubeconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/ropes-dev/ropes/bootstrap"
)

// ContextName is the name of the context, cluster and user entry of a cluster of ropes.
func ContextName(cluster string) string { return "ropes-" + cluster }

// Paths lists the files that KUBECONFIG names, without empty and repeated ones, or the
// default file in the home directory.
func Paths(getenv func(string) string) ([]string, error) {
	var paths []string
	for _, p := range filepath.SplitList(getenv("KUBECONFIG")) {
		if p != "" && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	if len(paths) > 0 {
		return paths, nil
	}
	home := getenv("HOME")
	if home == "" {
		home = getenv("USERPROFILE")
	}
	if home == "" {
		return nil, errors.New("neither KUBECONFIG nor HOME is set: no place for a kubeconfig")
	}
	return []string{filepath.Join(home, ".kube", "config")}, nil
}

// Target is the file that new entries go into: of those in KUBECONFIG the first that
// exists, else the last, as kubectl has it.
func Target(getenv func(string) string) (string, error) {
	paths, err := Paths(getenv)
	if err != nil {
		return "", err
	}
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && !info.IsDir() {
			return p, nil
		}
	}
	return paths[len(paths)-1], nil
}

// Merge writes the current context of conf, with its cluster and user, into the target
// file under the name ContextName(cluster) and makes it the current context. It returns
// the file's path. The file is locked as kubectl locks it; ctx bounds the wait.
func Merge(ctx context.Context, getenv func(string) string, cluster string, conf []byte) (string, error) {
	add, err := entriesOf(conf, ContextName(cluster))
	if err != nil {
		return "", fmt.Errorf("kubeconfig of cluster %s: %w", cluster, err)
	}
	path, err := Target(getenv)
	if err != nil {
		return "", err
	}
	return path, edit(ctx, path, func(root *yaml.Node) (bool, error) {
		setDefault(root, "apiVersion", "v1")
		setDefault(root, "kind", "Config")
		for _, list := range []string{"clusters", "contexts", "users"} {
			if err := put(root, list, ContextName(cluster), add[list]); err != nil {
				return false, err
			}
		}
		set(root, "current-context", ContextName(cluster))
		return true, nil
	})
}

// Remove takes the entries of the cluster out of every file that KUBECONFIG names, and
// unsets the current context where it was the cluster's. Files without such entries are
// not touched; one that then says nothing is removed.
func Remove(ctx context.Context, getenv func(string) string, cluster string) error {
	paths, err := Paths(getenv)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// A look without the lock: a file that does not mention the name is not ours to parse.
		if !bytes.Contains(data, []byte(ContextName(cluster))) {
			continue
		}
		errs = append(errs, edit(ctx, p, func(root *yaml.Node) (bool, error) {
			return removeFrom(root, ContextName(cluster)), nil
		}))
		if dir := filepath.Dir(p); filepath.Base(dir) == ".kube" {
			os.Remove(dir) // works only where the file was all that it held
		}
	}
	return errors.Join(errs...)
}

// WriteAlone writes conf as a file of its own, readable by its owner only.
func WriteAlone(path string, conf []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return bootstrap.ReplaceFile(path, conf, 0o600)
}

// edit changes the file at path under its lock. A file that is absent or empty begins as
// an empty mapping; one that change leaves alone is not written.
func edit(ctx context.Context, path string, change func(root *yaml.Node) (bool, error)) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	mode := fs.FileMode(0o600)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	doc, err := parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	changed, err := change(doc.Content[0])
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !changed {
		return nil
	}
	if hollow(doc.Content[0]) {
		// Nothing is left to be kept, most likely because the file began with us.
		if err := os.Remove(path); err != nil {
			return err
		}
		return nil
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(doc), enc.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return bootstrap.ReplaceFile(path, out.Bytes(), mode)
}

// hollow tells whether a kubeconfig says nothing: no entries, no current context, no
// other settings and no comments.
func hollow(root *yaml.Node) bool {
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if key.HeadComment != "" || key.FootComment != "" || value.LineComment != "" {
			return false
		}
		if key.Value == "apiVersion" || key.Value == "kind" {
			continue
		}
		if len(value.Content) > 0 || (value.Kind == yaml.ScalarNode && value.Value != "" && value.Tag != "!!null") {
			return false
		}
	}
	return root.HeadComment == "" && root.FootComment == ""
}

// parse returns a document node whose only child is a mapping.
func parse(data []byte) (*yaml.Node, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&doc)
	empty := errors.Is(err, io.EOF) || err == nil && doc.Content[0].Tag == "!!null"
	switch {
	case empty:
		return &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}}, nil
	case err != nil:
		return nil, err
	case doc.Content[0].Kind != yaml.MappingNode:
		return nil, errors.New("not a kubeconfig: not a mapping")
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("not a kubeconfig: more than one document")
	}
	return &doc, nil
}
