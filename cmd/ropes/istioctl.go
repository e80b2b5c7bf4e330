package main

import (
	"bytes"
	"fmt"
	"os"

	"istio.io/istio/istioctl/cmd"
	"istio.io/istio/pkg/log"
	"k8s.io/klog/v2"

	"github.com/ropes-dev/ropes/cmd/internal/command"
)

// istioctl is the real one.
type istioctl struct{}

var _ command.Tool = istioctl{}

// Run implements command.Tool.
func (istioctl) Run(kubeconfig string, args []string, failed func()) int {
	alone("istioctl", kubeconfig, args)
	klog.SetLogger(log.NewLogrAdapter(log.KlogScope)) // as its own main finds it
	if err := cmd.ConfigAndEnvProcessing(); err != nil {
		fmt.Fprintf(os.Stderr, "Could not initialize: %v\n", err)
		return cmd.GetExitCode(err)
	}
	root := cmd.GetRootCmd(args)
	log.EnableKlogWithCobra()
	if err := root.Execute(); err != nil {
		failed()
		return cmd.GetExitCode(err)
	}
	return 0
}

// Complete implements command.Tool.
func (istioctl) Complete(kubeconfig string, args []string) (string, error) {
	var out, errs bytes.Buffer
	alone("istioctl", kubeconfig, args)
	c := cmd.GetRootCmd(append([]string{"__complete"}, args...))
	c.SetOut(&out)
	c.SetErr(&errs)
	err := c.Execute()
	return out.String(), err
}
