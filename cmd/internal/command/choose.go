package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
)

// kindProvider is the provider that node images, registries and bundles are for.
const kindProvider = "kind"

// pickable tells whether a provider may be taken without being named: somebody else's
// cluster never is.
func pickable(name string) bool { return name != bootstrap.Existing }

func fatal(f bootstrap.Finding) bool { return f.Severity == bootstrap.Fatal }

// forKind is the first flag given that only kind has a use for.
func (o *upOptions) forKind() string {
	switch {
	case o.spec.Bundle != "":
		return "--bundle"
	case o.spec.Image != "":
		return "--image"
	case o.spec.Images != "" && o.spec.Images != "builtin":
		return "--images " + o.spec.Images
	}
	return ""
}

// asksKind tells whether flags were given that kind compares with what it made the cluster of.
func (o *upOptions) asksKind(p bootstrap.Provider) bool {
	return p.Name() == kindProvider && (o.spec.Bundle != "" || o.spec.Image != "" || o.spec.Images != "")
}

// fits refuses flags that the provider has no use for.
func (o *upOptions) fits(p bootstrap.Provider) error {
	if flag := o.forKind(); flag != "" && p.Name() != kindProvider {
		return usagef("%s goes with --provider %s, not with %s", flag, kindProvider, p.Name())
	}
	return nil
}

// pick takes the first provider that can run here.
func (o *upOptions) pick(ctx context.Context) (bootstrap.Provider, error) {
	candidates := slices.DeleteFunc(slices.Clone(o.Providers), func(p bootstrap.Provider) bool {
		return !pickable(p.Name()) || o.forKind() != "" && p.Name() != kindProvider
	})
	if len(candidates) == 0 {
		return o.Deps.provider("")
	}
	if len(candidates) == 1 {
		return candidates[0], nil // preflight tells what it lacks
	}
	lines := []string{"no provider can run on this machine"}
	var mend string
	for _, p := range candidates {
		findings := o.examine(ctx, p)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !slices.ContainsFunc(findings, fatal) {
			o.err.Printf("provider %s; --provider takes another\n", p.Name())
			return p, nil
		}
		for _, f := range findings {
			if !fatal(f) {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s: %s: %s", p.Name(), f.Check, withMend(f)))
			if f.Mend != "" {
				mend = f.Mend // of the last: it needs the least
			}
		}
	}
	if mend == "" {
		mend = "ropes doctor tells more"
	}
	return nil, failf(mend, "%s", strings.Join(lines, "\n"))
}

// examine has the provider look at this machine for what is asked for. Somebody else's
// cluster is looked at by its provider's Up.
func (o *upOptions) examine(ctx context.Context, p bootstrap.Provider) []bootstrap.Finding {
	if e, ok := p.(examiner); ok && pickable(p.Name()) {
		return e.Examine(ctx, o.spec)
	}
	return p.Doctor(ctx)
}
