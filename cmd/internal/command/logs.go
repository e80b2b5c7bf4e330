package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

type logsOptions struct {
	*Deps
	component string
	follow    bool
	output    format
}

// LogComponent is one of what `ropes logs -o json` lists.
type LogComponent struct {
	Name string   `json:"name"`
	From string   `json:"from"`           // host or pods
	Pods []string `json:"pods,omitempty"` // as namespace/name
}

func newLogsCmd(d *Deps) *cobra.Command {
	o := &logsOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "logs [COMPONENT]",
		Short: "Show the log of a part of the cluster; without COMPONENT list them",
		Long: `Shows the log of a part of the cluster: of what runs on this host for it (supervisor,
containerd, kubelet; there even when the API server is not) or of pods (kube-apiserver,
etcd, istiod, productpage ...). COMPONENT/CONTAINER chooses a container, such as
productpage/istio-proxy.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.component = args[0]
			}
			return atMost(1)(nil, args)
		},
		RunE: d.run(func(ctx context.Context) error { return runLogs(ctx, o) }),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			list, _ := o.list(cmd.Context()) // what cannot be asked is not offered
			var names []string
			for _, c := range list {
				names = append(names, c.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on showing what is written")
	outputFlag(cmd, &o.output)
	return cmd
}

func runLogs(ctx context.Context, o *logsOptions) error {
	if o.component != "" && o.output == formatJSON {
		return usagef("-o json is for the list of components; a log is text")
	}
	if slices.Contains(o.hostComponents(), o.component) {
		return o.copyHost(ctx)
	}
	if _, _, err := o.find(ctx); err != nil && len(o.hostComponents()) == 0 {
		return err
	}
	list, apiErr := o.list(ctx)
	if o.component == "" {
		return o.printList(list, apiErr)
	}
	name, container, _ := strings.Cut(o.component, "/")
	if full, ok := shortNames[name]; ok {
		name = full
	}
	i := slices.IndexFunc(list, func(c LogComponent) bool { return c.Name == name && c.From == fromPods })
	if i >= 0 {
		return o.copyPods(ctx, list[i], container)
	}
	if apiErr != nil {
		return failf("try: ropes "+o.nameFlag()+"logs   (it lists what can be read without the API server)", "no log of %q on this host, and pods cannot be asked for: %w", o.component, apiErr)
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return usagef("there is no component %q%s; ropes logs lists them", o.component, didYouMean(name, names))
}

const (
	fromHost = "host"
	fromPods = "pods"
)

func (o *logsOptions) hostComponents() []string {
	if o.Logs == nil {
		return nil
	}
	return o.Logs.Components(o.cluster)
}

// list returns what has a log; the error is that of pods that could not be asked for.
func (o *logsOptions) list(ctx context.Context) ([]LogComponent, error) {
	list := []LogComponent{}
	for _, name := range o.hostComponents() {
		list = append(list, LogComponent{Name: name, From: fromHost})
	}
	c, err := o.running(ctx)
	if err != nil {
		return list, err
	}
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	pods, err := o.podComponents(ctx, c)
	return append(list, pods...), err
}

func (o *logsOptions) printList(list []LogComponent, apiErr error) error {
	if o.output == formatJSON {
		if err := o.printJSON(list); err != nil {
			return err
		}
	} else {
		rows := [][]string{{"COMPONENT", "FROM", "PODS"}}
		for _, c := range list {
			rows = append(rows, []string{c.Name, c.From, strings.Join(c.Pods, " ")})
		}
		o.out.Table(rows...)
	}
	if apiErr != nil {
		o.err.Printf("ropes: pods are missing here: %v\n", apiErr)
	}
	return nil
}

func (o *logsOptions) copyHost(ctx context.Context) error {
	log, err := o.Logs.Open(ctx, o.cluster, o.component, o.follow)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", o.component, err)
	}
	defer log.Close()
	if _, err := io.Copy(o.Out, log); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read log of %s: %w", o.component, err)
	}
	return context.Cause(ctx)
}
