package probe

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/ropes-dev/ropes/checks"
)

// apiTimeout bounds a question to the API server, webhooks included.
const apiTimeout = 10 * time.Second

// serviceAccount turns namespace/name into the user and groups that it acts as.
func serviceAccount(ref string) (user string, groups []string) {
	ns, name, _ := strings.Cut(ref, "/")
	return "system:serviceaccount:" + ns + ":" + name,
		[]string{"system:serviceaccounts", "system:serviceaccounts:" + ns, "system:authenticated"}
}

// access asks the API server whether somebody may do something.
func (p *Prober) access(ctx context.Context, a *checks.AccessProbe) (checks.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	user, groups := a.User, a.Groups
	if a.ServiceAccount != "" {
		user, groups = serviceAccount(a.ServiceAccount)
	}
	list := []any{}
	for _, g := range groups {
		list = append(list, g)
	}
	review := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
		"spec": map[string]any{
			"user": user, "groups": list,
			"resourceAttributes": map[string]any{
				"verb": a.Verb, "group": a.Group, "resource": a.Resource, "subresource": a.Subresource,
				"namespace": a.Namespace, "name": a.Name,
			},
		},
	}}
	gvr := schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"}
	out, err := p.cluster.Dynamic.Resource(gvr).Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("access review for %s: %w", user, err)
	}
	allowed, _, _ := unstructured.NestedBool(out.Object, "status", "allowed")
	reason, _, _ := unstructured.NestedString(out.Object, "status", "reason")
	return checks.Result{"allowed": allowed, "reason": reason}, nil
}

// admit asks the API server to create an object without keeping it. The object gets a
// generated name, so that one of the same name is not in the way.
func (p *Prober) admit(ctx context.Context, a *checks.AdmitProbe) (checks.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	obj := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(a.Manifest)}
	if name := obj.GetName(); name != "" {
		obj.SetGenerateName(name + "-")
		obj.SetName("")
	}
	ri, err := p.creator(obj, a.ServiceAccount)
	if err != nil {
		return nil, err
	}
	out, err := ri.Create(ctx, obj, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err == nil {
		return checks.Result{"allowed": true, "message": "", "reason": "", "object": out.Object}, nil
	}
	if !isRefusal(err, a.ServiceAccount != "") {
		return nil, fmt.Errorf("dry-run create of %s: %w", obj.GetKind(), err)
	}
	return checks.Result{"allowed": false, "message": err.Error(), "reason": string(apierrors.ReasonForError(err)), "object": nil}, nil
}

func (p *Prober) creator(obj *unstructured.Unstructured, as string) (dynamic.ResourceInterface, error) {
	if as == "" {
		return p.cluster.Resource(obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace())
	}
	m, err := p.cluster.Mapping(obj.GetAPIVersion(), obj.GetKind())
	if err != nil {
		return nil, err
	}
	cfg := rest.CopyConfig(p.cluster.Config)
	user, groups := serviceAccount(as)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client as %s: %w", as, err)
	}
	if ns := obj.GetNamespace(); ns != "" {
		return dyn.Resource(m.Resource).Namespace(ns), nil
	}
	return dyn.Resource(m.Resource), nil
}

// isRefusal tells the API server's judgement on the object from everything else that can go
// wrong. That the asker may not create such objects at all is a judgement only where the
// question was put in somebody else's name.
func isRefusal(err error, impersonated bool) bool {
	if apierrors.IsForbidden(err) {
		return impersonated || !strings.Contains(err.Error(), "cannot create resource")
	}
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || isWebhookDenial(err)
}

// isWebhookDenial recognises the answer of an admission webhook that said no.
func isWebhookDenial(err error) bool {
	return strings.Contains(err.Error(), "admission webhook") && strings.Contains(err.Error(), "denied the request")
}
