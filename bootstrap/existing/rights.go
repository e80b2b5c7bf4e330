package existing

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
)

// Rights is the YAML of the cluster roles that a user needs, with a comment that says how
// to apply it.
//
//go:embed rights.yaml
var Rights []byte

const (
	labsRole  = "ropes-labs"  // always needed
	istioRole = "ropes-istio" // to install Istio
)

// roles decodes Rights.
func roles() (map[string][]rbacv1.PolicyRule, error) {
	out := map[string][]rbacv1.PolicyRule{}
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(Rights), 4096)
	for {
		var r rbacv1.ClusterRole
		err := dec.Decode(&r)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode rights: %w", err)
		}
		out[r.Name] = r.Rules
	}
}

// reviews lists what the rules allow, one question for each.
func reviews(rules []rbacv1.PolicyRule) []authorizationv1.ResourceAttributes {
	var out []authorizationv1.ResourceAttributes
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				name, sub, _ := strings.Cut(resource, "/")
				for _, verb := range rule.Verbs {
					out = append(out, authorizationv1.ResourceAttributes{Group: group, Resource: name, Subresource: sub, Verb: verb})
				}
			}
		}
	}
	return out
}

// asking is how many reviews are under way at a time.
const asking = 16

// missingRights returns the rights that the client's user lacks, as "verb resource.group", sorted.
func missingRights(ctx context.Context, client kubernetes.Interface, rules []rbacv1.PolicyRule) ([]string, error) {
	questions := reviews(rules)
	denied := make([]bool, len(questions))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(asking)
	for i := range questions {
		g.Go(func() error {
			r := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &questions[i]}}
			r, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, r, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("ask whether %s is allowed: %w", describe(questions[i]), err)
			}
			denied[i] = !r.Status.Allowed
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []string
	for i, q := range questions {
		if denied[i] {
			out = append(out, describe(q))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func describe(q authorizationv1.ResourceAttributes) string {
	resource := q.Resource
	if q.Subresource != "" {
		resource += "/" + q.Subresource
	}
	if q.Group != "" {
		resource += "." + q.Group
	}
	return q.Verb + " " + resource
}
