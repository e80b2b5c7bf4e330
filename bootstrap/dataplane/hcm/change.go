package hcm

import (
	"fmt"
	"net/http"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// headerChange is one step of a list of header mutations: it removes or adds.
type headerChange struct {
	remove string // canonical, or a pseudo-header
	match  match.String
	add    *headerAdd
}

func compileChanges(list []*mutationv3.HeaderMutation) ([]headerChange, error) {
	var out []headerChange
	for _, m := range list {
		var c headerChange
		switch a := m.GetAction().(type) {
		case *mutationv3.HeaderMutation_Remove:
			if c.remove = a.Remove; strings.HasPrefix(c.remove, ":") || strings.EqualFold(c.remove, "host") {
				return nil, fmt.Errorf("header %q may not be removed", c.remove)
			}
			c.remove = http.CanonicalHeaderKey(c.remove)
		case *mutationv3.HeaderMutation_RemoveOnMatch_:
			f, err := match.Compile(a.RemoveOnMatch.GetKeyMatcher())
			if err != nil {
				return nil, err
			}
			c.match = f
		case *mutationv3.HeaderMutation_Append:
			add, err := compileAdd(a.Append)
			if err != nil {
				return nil, err
			}
			c.add = &add
		default:
			return nil, fmt.Errorf("header mutation: action %T is not supported", a)
		}
		out = append(out, c)
	}
	return out, nil
}

func (c *headerChange) apply(s *Stream, h http.Header) {
	switch {
	case c.add != nil:
		addAll([]headerAdd{*c.add}, s, h)
	case c.match != nil:
		for name := range h {
			if c.match(strings.ToLower(name)) {
				delete(h, name)
			}
		}
	default:
		delete(h, c.remove)
	}
}
