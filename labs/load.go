package labs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ropes-dev/ropes/checks"
)

// manifestFile is the file that makes a folder a lab.
const manifestFile = "lab.yaml"

// Load reads and validates the labs of all sources. The catalog holds the labs that are
// sound; the error joins every complaint about the others, each with file and line.
func Load(sources ...Source) (Catalog, error) {
	var (
		out  Catalog
		errs []error
	)
	for _, src := range sources {
		dirs, err := labDirs(src)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, dir := range dirs {
			lab, err := load(src, dir)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if twin, ok := out.Lab(lab.ID); ok {
				errs = append(errs, fmt.Errorf("%s: lab %q is already defined at %s", lab.Pos, lab.ID, twin.Pos))
				continue
			}
			out = append(out, lab)
		}
	}
	return out, errors.Join(errs...)
}

func labDirs(src Source) ([]string, error) {
	if _, err := fs.Stat(src.FS, manifestFile); err == nil {
		return []string{"."}, nil
	}
	entries, err := fs.ReadDir(src.FS, ".")
	if err != nil {
		return nil, fmt.Errorf("labs in %s: %w", src.Name, err)
	}
	var dirs []string
	for _, e := range entries {
		if _, err := fs.Stat(src.FS, path.Join(e.Name(), manifestFile)); err == nil {
			dirs = append(dirs, e.Name())
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("labs in %s: no folder with a %s", src.Name, manifestFile)
	}
	return dirs, nil
}

// loader reads one lab's folder.
type loader struct {
	src  Source
	dir  string
	errs []error
	used map[string]bool // files that belong to the lab, by path below dir
}

func load(src Source, dir string) (*Lab, error) {
	l := &loader{src: src, dir: dir, used: map[string]bool{manifestFile: true}}
	data, err := fs.ReadFile(src.FS, path.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name(manifestFile), err)
	}
	lab := &Lab{Source: src.Name}
	d := decoder{file: l.name(manifestFile)}
	d.decode(data, lab)
	l.errs = d.errs
	if len(d.errs) == 0 {
		l.validate(lab)
		l.compile(lab)
		l.files(lab)
	}
	if len(l.errs) > 0 {
		return nil, errors.Join(l.errs...)
	}
	return lab, nil
}

// name is how complaints call a file of the lab.
func (l *loader) name(file string) string {
	return path.Join(l.src.Name, l.dir, file)
}

func (l *loader) complain(pos checks.Pos, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("%s: %w", pos, fmt.Errorf(format, args...)))
}

// files reads what lies beside lab.yaml and complains of what is missing or left over.
func (l *loader) files(lab *Lab) {
	for i := range lab.Steps {
		s := &lab.Steps[i]
		s.Text = l.read(s.Pos, fmt.Sprintf("steps/%02d-%s.md", i+1, s.ID))
		s.Solution = l.read(s.Pos, "solve/"+s.ID+".sh")
		for _, c := range s.Checks {
			for _, m := range c.Mistakes {
				body := l.read(m.Pos, fmt.Sprintf("mistakes/%s.%s.sh", s.ID, m.ID))
				s.Mistakes = append(s.Mistakes, Script{Mistake: m.ID, Check: c.ID, Body: body})
			}
		}
	}
	for _, dir := range []string{"steps", "solve", "mistakes"} {
		for _, f := range l.list(dir) {
			if !l.used[f] {
				l.complain(checks.Pos{File: l.name(f)}, "belongs to no step or mistake of %s", manifestFile)
			}
		}
	}
	for _, f := range l.list("baseline") {
		lab.Baseline = append(lab.Baseline, l.manifests(lab, f)...)
	}
}

func (l *loader) read(pos checks.Pos, file string) string {
	l.used[file] = true
	data, err := fs.ReadFile(l.src.FS, path.Join(l.dir, file))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.complain(pos, "%s is missing", l.name(file))
	case err != nil:
		l.complain(pos, "%w", err)
	case strings.TrimSpace(string(data)) == "":
		l.complain(pos, "%s is empty", l.name(file))
	}
	return string(data)
}

func (l *loader) list(dir string) []string {
	entries, err := fs.ReadDir(l.src.FS, path.Join(l.dir, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.complain(checks.Pos{File: l.name(dir)}, "%w", err)
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out
}

// manifests reads the objects of one baseline file.
func (l *loader) manifests(lab *Lab, file string) []*unstructured.Unstructured {
	data, err := fs.ReadFile(l.src.FS, path.Join(l.dir, file))
	if err != nil {
		l.complain(checks.Pos{File: l.name(file)}, "%w", err)
		return nil
	}
	var out []*unstructured.Unstructured
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	for {
		var doc yaml.Node
		if err := dec.Decode(&doc); err != nil {
			if err.Error() != "EOF" {
				l.complain(checks.Pos{File: l.name(file)}, "%w", err)
			}
			return out
		}
		var m map[string]any
		pos := checks.Pos{File: l.name(file), Line: doc.Line}
		if len(doc.Content) > 0 {
			pos.Line = doc.Content[0].Line
		}
		if err := doc.Decode(&m); err != nil {
			l.complain(pos, "not a manifest: %w", err)
			continue
		}
		if m == nil {
			continue
		}
		p, err := plain(m)
		if err != nil {
			l.complain(pos, "%w", err)
			continue
		}
		u := &unstructured.Unstructured{Object: p.(map[string]any)}
		l.baselineObject(lab, u, pos)
		out = append(out, u)
	}
}

func (l *loader) baselineObject(lab *Lab, u *unstructured.Unstructured, pos checks.Pos) {
	if u.GetAPIVersion() == "" || u.GetKind() == "" || u.GetName() == "" {
		l.complain(pos, "a baseline object needs apiVersion, kind and metadata.name")
		return
	}
	owned := u.GetNamespace()
	if u.GetKind() == "Namespace" {
		owned = u.GetName()
	}
	if owned != "" && !slices.Contains(lab.Namespaces, owned) {
		l.complain(pos, "%s %s: namespace %s is not listed under namespaces of %s", u.GetKind(), u.GetName(), owned, manifestFile)
	}
}
