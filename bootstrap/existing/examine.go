package existing

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap"
)

// What the cluster must have.
const (
	minMinor = 32 // of Kubernetes 1.x, from Istio's k8sversion.MinK8SVersion
	needPods = 30 // mesh, samples and the largest lab
)

var (
	needMemory = resource.MustParse("1536Mi") // requests of mesh, samples and the largest lab, with room
	needCPU    = resource.MustParse("500m")
)

// examination looks at one cluster for one learner's.
type examination struct {
	client   kubernetes.Interface
	name     string // the learner's name for the cluster
	useIstio bool
	spaces   []string      // that mesh and samples are put into
	mesh     []string      // those of the mesh among them
	nodes    []corev1.Node // once room has been asked about
}

// run answers with one finding for each question, the fatal ones among them in the way of
// going on. An error is a question that could not be asked.
func (e *examination) run(ctx context.Context, say func(string)) ([]bootstrap.Finding, error) {
	var out []bootstrap.Finding
	for _, q := range []struct {
		what string
		ask  func(context.Context) (bootstrap.Finding, error)
	}{
		{"version", e.version}, {"rights", e.rights}, {"Istio", e.istio}, {"namespaces", e.namespaces}, {"room", e.room}, {"images", e.images},
	} {
		say("looking at its " + q.what)
		f, err := q.ask(ctx)
		if err != nil {
			return out, fmt.Errorf("%s: %w", q.what, err)
		}
		f.Check = q.what
		out = append(out, f)
		if f.Severity == bootstrap.Fatal && q.what == "rights" {
			return out, nil // the others would only fail for want of them
		}
	}
	return out, nil
}

func ok(format string, args ...any) bootstrap.Finding {
	return bootstrap.Finding{Severity: bootstrap.OK, Detail: fmt.Sprintf(format, args...)}
}

func fatal(mend, format string, args ...any) bootstrap.Finding {
	return bootstrap.Finding{Severity: bootstrap.Fatal, Detail: fmt.Sprintf(format, args...), Mend: mend}
}

func warning(mend, format string, args ...any) bootstrap.Finding {
	return bootstrap.Finding{Severity: bootstrap.Warning, Detail: fmt.Sprintf(format, args...), Mend: mend}
}

func (e *examination) version(context.Context) (bootstrap.Finding, error) {
	v, err := e.client.Discovery().ServerVersion()
	if err != nil {
		return bootstrap.Finding{}, err
	}
	minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	if err != nil || v.Major != "1" {
		return warning("", "the API server calls itself %s, which says no version", v.GitVersion), nil
	}
	if minor < minMinor {
		return fatal("use a cluster of Kubernetes 1."+strconv.Itoa(minMinor)+" or newer", "Kubernetes %s is older than Istio goes with", v.GitVersion), nil
	}
	return ok("Kubernetes %s", v.GitVersion), nil
}

// shown is how many of a list a message names.
const shown = 6

func some(list []string) string {
	if len(list) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:shown], ", "), len(list)-shown)
	}
	return strings.Join(list, ", ")
}

func (e *examination) rights(ctx context.Context) (bootstrap.Finding, error) {
	all, err := roles()
	if err != nil {
		return bootstrap.Finding{}, err
	}
	rules := all[labsRole]
	if !e.useIstio {
		rules = slices.Concat(rules, all[istioRole])
	}
	missing, err := missingRights(ctx, e.client, rules)
	if err != nil {
		return bootstrap.Finding{}, err
	}
	if len(missing) > 0 {
		return fatal("an administrator of the cluster grants them: `ropes rights` prints the roles and how to bind them",
			"you may not: %s", some(missing)), nil
	}
	return ok("you may do all that labs need"), nil
}

// istio looks for a mesh that is not this learner's.
func (e *examination) istio(ctx context.Context) (bootstrap.Finding, error) {
	groups, err := e.client.Discovery().ServerGroups()
	if err != nil {
		return bootstrap.Finding{}, err
	}
	crds := slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool {
		return g.Name == "networking.istio.io" || g.Name == "security.istio.io"
	})
	istiods, err := e.client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return bootstrap.Finding{}, err
	}
	ours, err := e.owns(ctx, e.mesh)
	if err != nil {
		return bootstrap.Finding{}, err
	}
	var where []string
	ready := false
	for i := range istiods.Items {
		d := &istiods.Items[i]
		where = append(where, d.Namespace+"/"+d.Name)
		ready = ready || d.Status.ReadyReplicas > 0
	}
	switch {
	case e.useIstio && !ready:
		return fatal("without --use-istio ropes installs one", "--use-istio, and no istiod is ready in the cluster"), nil
	case e.useIstio:
		return ok("the Istio of %s is used and left as it is", some(where)), nil
	case ours:
		return ok("the one that is there was installed by ropes for this name"), nil
	case len(where) > 0:
		return fatal("--use-istio runs the labs on it and leaves it as it is", "there is an Istio that ropes did not install for this name: %s", some(where)), nil
	case crds:
		return fatal("if nobody needs them: kubectl delete crd -l app.kubernetes.io/part-of=istio", "Istio's resource definitions are there already, and removing ours would remove what others keep in them"), nil
	}
	return ok("none yet"), nil
}

// owns tells whether any of the namespaces was made for this learner's cluster.
func (e *examination) owns(ctx context.Context, spaces []string) (bool, error) {
	list, err := e.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: bootstrap.ClusterLabel + "=" + e.name})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list.Items, func(ns corev1.Namespace) bool { return slices.Contains(spaces, ns.Name) }), nil
}

// namespaces looks for names that are taken.
func (e *examination) namespaces(ctx context.Context) (bootstrap.Finding, error) {
	list, err := e.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return bootstrap.Finding{}, err
	}
	var taken []string
	for i := range list.Items {
		ns := &list.Items[i]
		if e.useIstio && slices.Contains(e.mesh, ns.Name) {
			continue
		}
		if slices.Contains(e.spaces, ns.Name) && ns.Labels[bootstrap.ClusterLabel] != e.name {
			taken = append(taken, ns.Name)
		}
	}
	if len(taken) > 0 {
		return fatal("if nobody needs them: kubectl delete namespace "+strings.Join(taken, " "),
			"namespaces that ropes needs are somebody else's: %s", some(taken)), nil
	}
	return ok("%s are free or ropes' own", some(e.spaces)), nil
}

// room adds up what nodes have left.
func (e *examination) room(ctx context.Context) (bootstrap.Finding, error) {
	nodes, err := e.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return bootstrap.Finding{}, err
	}
	e.nodes = nodes.Items
	pods, err := e.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"})
	if err != nil {
		return bootstrap.Finding{}, err
	}
	free := map[corev1.ResourceName]*resource.Quantity{corev1.ResourceCPU: {}, corev1.ResourceMemory: {}, corev1.ResourcePods: {}}
	usable := map[string]bool{}
	for i := range e.nodes {
		n := &e.nodes[i]
		if !takesPods(n) {
			continue
		}
		usable[n.Name] = true
		for name, q := range free {
			q.Add(n.Status.Allocatable[name])
		}
	}
	if len(usable) == 0 {
		return fatal("", "none of %d nodes is ready and takes pods of any kind", len(e.nodes)), nil
	}
	one := resource.MustParse("1")
	for i := range pods.Items {
		p := &pods.Items[i]
		if !usable[p.Spec.NodeName] {
			continue
		}
		free[corev1.ResourcePods].Sub(one)
		for _, c := range p.Spec.Containers {
			free[corev1.ResourceCPU].Sub(c.Resources.Requests[corev1.ResourceCPU])
			free[corev1.ResourceMemory].Sub(c.Resources.Requests[corev1.ResourceMemory])
		}
	}
	var short []string
	for name, need := range map[corev1.ResourceName]resource.Quantity{
		corev1.ResourceCPU: needCPU, corev1.ResourceMemory: needMemory, corev1.ResourcePods: *resource.NewQuantity(needPods, resource.DecimalSI),
	} {
		if free[name].Cmp(need) < 0 {
			short = append(short, fmt.Sprintf("%s %s of %s", name, free[name], need.String()))
		}
	}
	if len(short) > 0 {
		slices.Sort(short)
		return warning("pods may stay Pending; free some, or add a node", "left for new pods: %s that labs may ask for", strings.Join(short, ", ")), nil
	}
	return ok("%d nodes take pods, with %s CPU and %s memory left", len(usable), free[corev1.ResourceCPU], free[corev1.ResourceMemory]), nil
}

// takesPods tells whether a node is ready and takes pods without tolerations.
func takesPods(n *corev1.Node) bool {
	if n.Spec.Unschedulable || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule }) {
		return false
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// images looks for images of ropes among those that nodes report. A kubelet reports only
// some of its images, so their absence proves nothing. Those that this ropes carries are
// for processors like its own.
func (e *examination) images(context.Context) (bootstrap.Finding, error) {
	for i := range e.nodes {
		n := &e.nodes[i]
		if arch := n.Status.NodeInfo.Architecture; arch != "" && arch != runtime.GOARCH && takesPods(n) {
			return warning("what its pods need there, a ropes for "+arch+" writes: `ropes images save FILE`",
				"node %s is %s, and the images of this ropes are for %s", n.Name, arch, runtime.GOARCH), nil
		}
	}
	for i := range e.nodes {
		for _, img := range e.nodes[i].Status.Images {
			if slices.ContainsFunc(img.Names, func(n string) bool { return strings.HasPrefix(n, "ropes.local/") }) {
				return ok("node %s has images of ropes", e.nodes[i].Name), nil
			}
		}
	}
	return warning("where its pods stay in ErrImagePull: `ropes images save FILE` writes them for `kind load image-archive` or, on every node, `ctr -n k8s.io images import`",
		"no node reports images of ropes (ropes.local/...), which no public registry has"), nil
}
