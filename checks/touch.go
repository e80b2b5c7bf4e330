package checks

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// touches lists the objects whose change can change the verdict of c.
func touches(c *Check) []ObjectRef {
	var refs []ObjectRef
	add := func(more ...ObjectRef) {
		for _, r := range more {
			r.Pos = Pos{}
			if !slices.Contains(refs, r) {
				refs = append(refs, r)
			}
		}
	}
	for _, name := range c.names() {
		if ref, ok := c.Objects[name]; ok {
			add(ref)
		}
		if p, ok := c.Probes[name]; ok {
			add(p.touches()...)
		}
	}
	add(c.Watch...)
	return refs
}

// names lists the objects and probes that any expression of c mentions.
func (c *Check) names() []string {
	exprs := []Expr{c.Expr, c.Got}
	for _, m := range c.Mistakes {
		exprs = append(exprs, m.When, m.Got)
	}
	var names []string
	for _, e := range exprs {
		if e.Present() {
			names = append(names, e.Program.Vars()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Live tells whether the verdict can change without an API event.
func (c *Check) Live() bool {
	return slices.ContainsFunc(c.names(), func(name string) bool {
		p, ok := c.Probes[name]
		return ok && p.Live()
	})
}

// touches lists the objects that decide a probe's answer as far as the probe itself tells.
func (p Probe) touches() []ObjectRef {
	const rbac = "rbac.authorization.k8s.io/v1"
	switch {
	case p.Access != nil:
		refs := []ObjectRef{{APIVersion: rbac, Kind: "ClusterRole"}, {APIVersion: rbac, Kind: "ClusterRoleBinding"}}
		if ns := p.Access.Namespace; ns != "" {
			refs = append(refs, ObjectRef{APIVersion: rbac, Kind: "Role", Namespace: ns}, ObjectRef{APIVersion: rbac, Kind: "RoleBinding", Namespace: ns})
		}
		return refs
	case p.Admit != nil:
		md, _ := p.Admit.Manifest["metadata"].(map[string]any)
		ns, _ := md["namespace"].(string)
		if ns == "" {
			return nil
		}
		return []ObjectRef{
			{APIVersion: "v1", Kind: "Namespace", Name: ns},
			{APIVersion: "v1", Kind: "ResourceQuota", Namespace: ns},
			{APIVersion: "v1", Kind: "LimitRange", Namespace: ns},
		}
	case p.From.Host:
		return nil
	}
	return []ObjectRef{{APIVersion: "v1", Kind: "Pod", Namespace: p.From.Namespace, Name: p.From.Pod, Selector: p.From.Selector}}
}

// matches tells whether a change from old to obj (one of them nil where the object came or
// went) concerns the reference. Fields are not looked into: too often is harmless.
func (r ObjectRef) matches(old, obj metav1.Object) bool {
	one := func(o metav1.Object) bool {
		if o == nil {
			return false
		}
		if r.Name != "" {
			return o.GetName() == r.Name
		}
		sel, err := labels.Parse(r.Selector)
		return err != nil || sel.Matches(labels.Set(o.GetLabels()))
	}
	return one(old) || one(obj)
}
