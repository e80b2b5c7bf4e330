package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // as in the released kubectl
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/ropes-dev/ropes/cmd/internal/command"
)

// kubectl is the real one. It ends the process by itself where it fails.
type kubectl struct{}

var _ command.Tool = kubectl{}

// Run implements command.Tool.
func (kubectl) Run(kubeconfig string, args []string, failed func()) int {
	alone("kubectl", kubeconfig, args)
	klog.ClearLogger() // Istio's packages have taken it
	util.BehaviorOnFatal(func(msg string, code int) {
		if msg != "" {
			fmt.Fprintln(os.Stderr, strings.TrimSuffix(msg, "\n"))
		}
		failed()
		os.Exit(code)
	})
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args)) // a bad level is told when flags are parsed
	// Plugins are looked for as kubectl does: the learner may have some.
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return 0
}

// Complete implements command.Tool.
func (kubectl) Complete(kubeconfig string, args []string) (string, error) {
	var out, errs bytes.Buffer
	alone("kubectl", kubeconfig, append([]string{"__complete"}, args...))
	c := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		IOStreams:     genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errs},
	})
	c.SetOut(&out)
	c.SetErr(&errs)
	err := c.Execute()
	return out.String(), err
}

// alone gives the process to a tool: its arguments, its kubeconfig, and the signals with
// what they do by default.
func alone(name, kubeconfig string, args []string) {
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	os.Args = append([]string{name}, args...)
	if kubeconfig != "" {
		_ = os.Setenv("KUBECONFIG", kubeconfig)
		if os.Getenv("KUBECACHEDIR") == "" {
			_ = os.Setenv("KUBECACHEDIR", command.CacheBeside(kubeconfig))
		}
	}
}
