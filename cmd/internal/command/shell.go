package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

// shellEnv tells programs that they run inside `ropes shell`; its value is the cluster's name.
const shellEnv = "ROPES_SHELL"

type shellOptions struct {
	*Deps
	args []string // instead of an interactive shell
}

func newShellCmd(d *Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell [-- COMMAND ...]",
		Short: "Open your shell with kubectl and istioctl for the cluster",
		Long: `Opens your shell ($SHELL) with KUBECONFIG set to the cluster and kubectl, istioctl and
ropes on PATH; or runs COMMAND like that. The exit code is the shell's.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.run(func(ctx context.Context) error { return runShell(ctx, &shellOptions{Deps: d, args: args}) })(cmd, args)
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runShell(ctx context.Context, o *shellOptions) error {
	if runtime.GOOS == "windows" {
		return failf("ropes "+o.nameFlag()+"kubectl and ropes "+o.nameFlag()+"istioctl work here", "ropes shell is not supported on Windows: it needs a POSIX shell and symbolic links")
	}
	if _, err := o.running(ctx); err != nil {
		return err
	}
	env, err := o.toolEnv(ctx)
	if err != nil {
		return err
	}
	env = append(env, shellEnv+"="+o.cluster)
	args := o.args
	if len(args) == 0 {
		var more []string
		if args, more, err = o.interactive(); err != nil {
			return err
		}
		env = append(env, more...)
		o.err.Printf("%s\n", o.err.Paint(term.Dim, fmt.Sprintf("kubectl and istioctl mean cluster %s in this shell; exit leaves it.", o.cluster)))
	}
	program, err := lookPath(args[0], env)
	if err != nil {
		return err
	}
	// Not tied to ctx: Ctrl-C is for what runs in the shell, and the terminal sends it there.
	cmd := exec.Command(program, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.In, o.Out, o.Err
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitStatus(exitCode(exit))
	}
	return err
}

// lookPath finds a program on the PATH of env, where the tools are.
func lookPath(name string, env []string) (string, error) {
	if strings.ContainsRune(name, os.PathSeparator) {
		return name, nil
	}
	path := ""
	for _, kv := range env {
		if p, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = p
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: no such program on PATH", name)
}

// interactive returns the command line of the learner's shell, and what its environment
// needs so that the tools come first on PATH and the prompt names the cluster, after the
// learner's own start files have been read.
func (d *Deps) interactive() (args, env []string, err error) {
	shell := d.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	bin := quote(filepath.Join(d.clusterDir(), "bin"))
	set := fmt.Sprintf("PATH=%s:$PATH\nexport PATH\n", bin)
	prompt := fmt.Sprintf("PS1=\"(%s) $PS1\"\n", d.cluster)
	dir := filepath.Join(d.clusterDir(), "shell")
	write := func(name, text string) (string, error) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		return path, os.WriteFile(path, []byte(text), 0o600)
	}
	switch filepath.Base(shell) {
	case "bash":
		rc, err := write("bashrc", "[ -f ~/.bashrc ] && . ~/.bashrc\n"+set+prompt)
		return []string{shell, "--rcfile", rc, "-i"}, nil, err
	case "zsh":
		home := d.Getenv("ZDOTDIR")
		if home == "" {
			home = d.Getenv("HOME")
		}
		own := quote(filepath.Join(home, ".zshrc"))
		_, err := write(".zshrc", fmt.Sprintf("ZDOTDIR=%s\n[ -f %s ] && . %s\n%s%s", quote(home), own, own, set, prompt))
		return []string{shell, "-i"}, []string{"ZDOTDIR=" + dir}, err
	case "fish":
		return []string{shell, "-C", "set -gx PATH " + bin + " $PATH"}, nil, nil
	default: // POSIX shells read what ENV names when they are interactive
		own := ""
		if file := d.Getenv("ENV"); file != "" {
			own = fmt.Sprintf("[ -f %s ] && . %s\n", quote(file), quote(file))
		}
		rc, err := write("shrc", own+set+prompt)
		return []string{shell, "-i"}, []string{"ENV=" + rc}, err
	}
}

// quote makes one word of s for any of the shells.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
