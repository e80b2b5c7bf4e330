package command

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"
)

// Set with -ldflags "-X github.com/ropes-dev/ropes/cmd/internal/command.version=...".
var (
	version = ""
	commit  = ""
	date    = "" // of the commit, RFC 3339
)

type versionOptions struct {
	*Deps
	output format
}

// Version is what `ropes version -o json` prints.
type Version struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Date     string `json:"date,omitempty"` // of the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Payload names the programs that this binary carries for clusters, by version.
	Payload map[string]string `json:"payload"`
	// BuiltIn names what is linked into this binary.
	BuiltIn map[string]string `json:"builtIn"`
	Note    string            `json:"note,omitempty"` // why there is no payload
}

// libraries are the modules whose version a learner may ask about.
var libraries = map[string]string{
	"k8s.io/kubectl":           "kubectl",
	"k8s.io/client-go":         "client-go",
	"istio.io/istio":           "istioctl",
	"helm.sh/helm/v3":          "helm",
	"sigs.k8s.io/kind":         "kind",
	"k8s.io/kubernetes":        "kubeadm",
	"github.com/google/cel-go": "cel",
}

func newVersionCmd(d *Deps) *cobra.Command {
	o := &versionOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of ropes and of what it carries",
		Args:  atMost(0),
		RunE:  d.run(func(ctx context.Context) error { return runVersion(ctx, o) }),
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func runVersion(_ context.Context, o *versionOptions) error {
	v := Version{
		Version: version, Commit: commit, Date: date, Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Payload: map[string]string{}, BuiltIn: map[string]string{},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.fill(info)
	}
	if v.Version == "" {
		v.Version = "devel"
	}
	if o.Versions != nil {
		carried, err := o.Versions()
		if err != nil {
			v.Note = err.Error()
		}
		maps.Copy(v.Payload, carried)
	}
	if o.output == formatJSON {
		return o.printJSON(v)
	}
	head := "ropes " + v.Version
	if v.Commit != "" {
		head += " (" + v.Commit[:min(len(v.Commit), 12)] + ")"
	}
	o.out.Printf("%s %s %s\n", head, v.Platform, v.Go)
	o.section("For clusters", v.Payload)
	if v.Note != "" {
		o.out.Printf("\n%s\n", v.Note)
	}
	o.section("Built in", v.BuiltIn)
	return nil
}

func (o *versionOptions) section(title string, versions map[string]string) {
	if len(versions) == 0 {
		return
	}
	rows := [][]string{{title, ""}}
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		rows = append(rows, []string{"  " + name, versions[name]})
	}
	fmt.Fprintln(o.Out)
	o.out.Table(rows...)
}

// fill takes what the linker knows. What was set at build time counts more.
func (v *Version) fill(info *debug.BuildInfo) {
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && v.Commit == "":
			v.Commit = s.Value
		case s.Key == "vcs.time" && v.Date == "":
			v.Date = s.Value
		}
	}
	if v.Version == "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, m := range info.Deps {
		name, ok := libraries[m.Path]
		if !ok {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		v.BuiltIn[name] = m.Version
	}
}
