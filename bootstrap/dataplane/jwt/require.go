package jwt

import (
	"fmt"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Requirement is what a request has to prove. It is safe for concurrent use.
type Requirement struct {
	check func(*Request) Status
	owned []string // headers that only this filter may set
}

// Verify checks r and, for each good token, notes its payload and claims in r. OK lets the request pass.
func (q *Requirement) Verify(r *Request) Status {
	for _, h := range q.owned {
		delete(r.Header, h)
	}
	return q.check(r)
}

// Requirement compiles p. nil requires nothing.
func (s *Set) Requirement(p *jwtv3.JwtRequirement) (*Requirement, error) {
	out := &Requirement{}
	for _, one := range s.sorted {
		if one.payloadHeader != "" {
			out.owned = append(out.owned, one.payloadHeader)
		}
		for _, c := range one.claims {
			out.owned = append(out.owned, c.header)
		}
	}
	var err error
	out.check, err = s.compile(p)
	return out, err
}

func (s *Set) compile(p *jwtv3.JwtRequirement) (func(*Request) Status, error) {
	switch t := p.GetRequiresType().(type) {
	case nil:
		return func(*Request) Status { return OK }, nil
	case *jwtv3.JwtRequirement_ProviderName:
		return s.named(t.ProviderName, nil)
	case *jwtv3.JwtRequirement_ProviderAndAudiences:
		return s.named(t.ProviderAndAudiences.GetProviderName(), t.ProviderAndAudiences.GetAudiences())
	case *jwtv3.JwtRequirement_RequiresAny:
		return s.any(t.RequiresAny.GetRequirements())
	case *jwtv3.JwtRequirement_RequiresAll:
		return s.all(t.RequiresAll.GetRequirements())
	case *jwtv3.JwtRequirement_AllowMissing:
		return s.optional, nil
	case *jwtv3.JwtRequirement_AllowMissingOrFailed:
		return func(r *Request) Status {
			s.optional(r)
			return OK
		}, nil
	default:
		return nil, fields.Unsupported(p, fmt.Sprintf("requires_type (%T)", t), "")
	}
}

func (s *Set) named(name string, audiences []string) (func(*Request) Status, error) {
	p, ok := s.byName[name]
	if !ok {
		return nil, fmt.Errorf("required provider %q is not configured", name)
	}
	allowed := p.audiences
	if len(audiences) > 0 {
		allowed = nil
		for _, a := range audiences {
			allowed = append(allowed, plainAudience(a))
		}
	}
	return func(r *Request) Status {
		status := Missing
		for _, at := range p.places {
			raw, ok := at.find(r)
			if !ok {
				continue
			}
			if status = p.verify(r, raw, at, allowed); status != OK {
				return status
			}
		}
		return status
	}, nil
}

// any holds when one of the requirements does. What may be missing is asked last, as in Envoy; of several failures the
// last one that is about a known token is told.
func (s *Set) any(list []*jwtv3.JwtRequirement) (func(*Request) Status, error) {
	var checks []func(*Request) Status
	var last *jwtv3.JwtRequirement
	for _, p := range list {
		switch p.GetRequiresType().(type) {
		case *jwtv3.JwtRequirement_AllowMissingOrFailed:
			last = p
			continue
		case *jwtv3.JwtRequirement_AllowMissing:
			if last == nil {
				last = p
			}
			continue
		case nil:
			continue
		}
		c, err := s.compile(p)
		if err != nil {
			return nil, err
		}
		checks = append(checks, c)
	}
	if last != nil {
		c, err := s.compile(last)
		if err != nil {
			return nil, err
		}
		checks = append(checks, c)
	}
	return func(r *Request) Status {
		told := Missing
		for _, c := range checks {
			switch status := c(r); {
			case status == OK:
				return OK
			case status != Missing && (status != UnknownIssuer || told == Missing):
				told = status
			}
		}
		return told
	}, nil
}

func (s *Set) all(list []*jwtv3.JwtRequirement) (func(*Request) Status, error) {
	var checks []func(*Request) Status
	for _, p := range list {
		c, err := s.compile(p)
		if err != nil {
			return nil, err
		}
		checks = append(checks, c)
	}
	return func(r *Request) Status {
		for _, c := range checks {
			if status := c(r); status != OK {
				return status
			}
		}
		return OK
	}, nil
}

// optional verifies every token there is, each by the provider of its issuer.
func (s *Set) optional(r *Request) Status {
	worst := OK
	type spot struct {
		at  place
		raw string
	}
	seen := map[spot]bool{}
	for _, p := range s.sorted {
		for _, at := range p.places {
			raw, ok := at.find(r)
			if !ok || seen[spot{at, raw}] {
				continue
			}
			seen[spot{at, raw}] = true
			if status := s.byIssuer(r, raw, at); status != OK {
				worst = status
			}
		}
	}
	return worst
}

func (s *Set) byIssuer(r *Request, raw string, at place) Status {
	t, status := parse(raw)
	if status != OK {
		return status
	}
	var found *provider
	for _, p := range s.sorted {
		if p.issuer != t.iss && p.issuer != "" || !p.looksAt(at) {
			continue
		}
		if found == nil || found.issuer == "" {
			found = p
		}
	}
	if found == nil {
		return UnknownIssuer
	}
	return found.verify(r, raw, at, found.audiences)
}

func (p *provider) looksAt(at place) bool {
	for _, own := range p.places {
		if own == at {
			return true
		}
	}
	return false
}
