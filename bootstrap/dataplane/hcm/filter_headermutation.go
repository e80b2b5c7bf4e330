package hcm

import (
	"net/http"
	"strings"

	hmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// mutations are the header changes of one level.
type mutations struct{ request, response []headerChange }

func compileMutations(p *hmv3.Mutations) (*mutations, error) {
	if err := fields.Check(p, "request_mutations response_mutations"); err != nil {
		return nil, err
	}
	out := &mutations{}
	var err error
	if out.request, err = compileChanges(p.GetRequestMutations()); err != nil {
		return nil, err
	}
	out.response, err = compileChanges(p.GetResponseMutations())
	return out, err
}

// newHeaderMutation changes headers as its own configuration says and then as those of all levels of the route do, the
// most specific first unless it says otherwise.
func newHeaderMutation(_ *Manager, name string, body *anypb.Any) (filter, error) {
	p := &hmv3.HeaderMutation{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	own, err := compileMutations(p.GetMutations())
	if err != nil {
		return filter{}, err
	}
	last := p.GetMostSpecificHeaderMutationsWins()
	return filter{
		name: name,
		request: func(s *Stream) *reply {
			path, authority := s.path, s.authority
			own.applyRequest(s)
			s.eachLevel(name, last, func(c any) {
				if m, ok := c.(*mutations); ok {
					m.applyRequest(s)
				}
			})
			if s.path != path && !strings.HasPrefix(s.path, "/") || s.authority == "" {
				s.path, s.authority = path, authority
			}
			return nil
		},
		response: func(s *Stream, _ int, h http.Header) {
			own.applyResponse(s, h)
			s.eachLevel(name, last, func(c any) {
				if m, ok := c.(*mutations); ok {
					m.applyResponse(s, h)
				}
			})
		},
	}, nil
}

func (m *mutations) applyRequest(s *Stream) {
	for i := range m.request {
		m.request[i].apply(s, s.req.Header)
	}
}

func (m *mutations) applyResponse(s *Stream, h http.Header) {
	for i := range m.response {
		m.response[i].apply(s, h)
	}
}

func headerMutationPerRoute(body *anypb.Any) (any, error) {
	p := &hmv3.HeaderMutationPerRoute{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	return compileMutations(p.GetMutations())
}

// eachLevel calls fn with what each level of the route says about a filter, from weighted cluster to route configuration
// or the other way round.
func (s *Stream) eachLevel(name string, reverse bool, fn func(any)) {
	if s.table == nil || !s.overrides() {
		return
	}
	levels := [4]map[string]any{3: s.table.perFilter}
	if s.weighted != nil {
		levels[0] = s.weighted.perFilter
	}
	if s.route != nil {
		levels[1], levels[2] = s.route.perFilter, s.route.vhost.perFilter
	}
	for i := range levels {
		if reverse {
			i = len(levels) - 1 - i
		}
		if c, ok := levels[i][name]; ok {
			fn(c)
		}
	}
}
