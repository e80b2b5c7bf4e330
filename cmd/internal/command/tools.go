package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ropes-dev/ropes/cmd/internal/kubeconfig"
	"github.com/spf13/cobra"
)

func newKubectlCmd(d *Deps) *cobra.Command {
	return newToolCmd(d, "kubectl", "Run kubectl on the cluster; the real one, built in", d.Kubectl)
}

func newIstioctlCmd(d *Deps) *cobra.Command {
	return newToolCmd(d, "istioctl", "Run istioctl on the cluster; the real one, built in", d.Istioctl)
}

type toolOptions struct {
	*Deps
	tool Tool
	args []string
}

// newToolCmd hands all that follows the tool's name to the tool, flags and --help included.
func newToolCmd(d *Deps, name, short string, tool Tool) *cobra.Command {
	return &cobra.Command{
		Use:                name + " ...",
		Short:              short,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.run(func(ctx context.Context) error {
				return runTool(ctx, &toolOptions{Deps: d, tool: tool, args: args})
			})(cmd, args)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return d.completeTool(tool, append(args, toComplete))
		},
	}
}

// runTool points the tool at the cluster, unless the user chose a context. It never falls
// back to the user's current context: that may be a cluster which is no playground.
func runTool(ctx context.Context, o *toolOptions) error {
	conf := ""
	if !choosesContext(o.args) {
		conf = o.ownKubeconfig()
		// Without a file a tool would try localhost:8080, which may be our own ingress.
		if err := o.ensureKubeconfig(ctx); errors.Is(err, errUnwritten) {
			return err
		} else if err != nil && !errors.Is(err, errNoKubeconfig) {
			o.Log.Warn("find the cluster", "error", err)
		}
	}
	code := o.tool.Run(conf, o.args, func() {
		if conf == "" {
			return
		}
		if _, err := o.running(context.WithoutCancel(ctx)); err != nil {
			o.complain(err, o.mend(err))
		}
	})
	if code != exitOK {
		return exitStatus(code)
	}
	return nil
}

// choosesContext tells whether a tool's arguments name a context or kubeconfig.
func choosesContext(args []string) bool {
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		switch name {
		case "--":
			return false
		case "--context", "--kubeconfig":
			return true
		}
	}
	return false
}

// completeTool turns the answer of another cobra command into ours.
func (d *Deps) completeTool(tool Tool, args []string) ([]string, cobra.ShellCompDirective) {
	conf := ""
	if !choosesContext(args) {
		conf = d.ownKubeconfig()
	}
	answer, err := tool.Complete(conf, args)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for line := range strings.Lines(answer) {
		line = strings.TrimRight(line, "\n")
		if directive, ok := strings.CutPrefix(line, ":"); ok {
			if n, err := strconv.Atoi(directive); err == nil {
				return words, cobra.ShellCompDirective(n)
			}
		}
		words = append(words, line)
	}
	return words, cobra.ShellCompDirectiveDefault
}

var (
	errNoKubeconfig = errors.New("the cluster has no kubeconfig yet")
	errUnwritten    = errors.New("write kubeconfig")
)

// ensureKubeconfig sees to it that the file of the cluster's own is there.
func (d *Deps) ensureKubeconfig(ctx context.Context) error {
	_, err := os.Stat(d.ownKubeconfig())
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, c, err := d.find(ctx)
	if err != nil {
		return err
	}
	if len(c.Kubeconfig) == 0 {
		return errNoKubeconfig
	}
	if err := kubeconfig.WriteAlone(d.ownKubeconfig(), c.Kubeconfig); err != nil {
		return fmt.Errorf("%w: %w", errUnwritten, err)
	}
	return nil
}

// toolEnv is the environment in which kubectl and istioctl are on PATH and mean the cluster.
func (d *Deps) toolEnv(ctx context.Context) ([]string, error) {
	if err := d.ensureKubeconfig(ctx); err != nil {
		return nil, err
	}
	bin, err := d.linkTools()
	if err != nil {
		return nil, fmt.Errorf("put kubectl and istioctl on PATH: %w", err)
	}
	path := bin
	if old := d.Getenv("PATH"); old != "" {
		path += string(os.PathListSeparator) + old
	}
	env := append([]string{}, d.Environ...) // of several values of a variable the last one counts
	return append(env, "KUBECONFIG="+d.ownKubeconfig(), "KUBECACHEDIR="+CacheBeside(d.ownKubeconfig()), clusterEnv+"="+d.cluster, "PATH="+path), nil
}

// CacheBeside is where kubectl keeps what it discovered of the cluster of a kubeconfig:
// beside that file, and so gone with the cluster. kubectl's own place goes by address
// and port, where the next cluster would find what the last one had.
func CacheBeside(kubeconfig string) string {
	return filepath.Join(filepath.Dir(kubeconfig), "discovery")
}

// linkTools makes a directory where the tools' names lead to this executable.
func (d *Deps) linkTools() (dir string, err error) {
	dir = filepath.Join(d.clusterDir(), "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"kubectl", "istioctl", "ropes"} {
		link := filepath.Join(dir, name)
		if target, err := os.Readlink(link); err == nil && target == d.Self {
			continue
		}
		tmp := link + "." + strconv.Itoa(os.Getpid())
		if err := errors.Join(removed(os.Remove(tmp)), os.Symlink(d.Self, tmp), os.Rename(tmp, link)); err != nil {
			return "", err
		}
	}
	return dir, nil
}
