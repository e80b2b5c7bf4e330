package match_test

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

func TestPathIgnoresQueryAndFragment(t *testing.T) {
	f, err := match.Path(&matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: sm("exact", "/a", false)}})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{"/a": true, "/a?b=c": true, "/a#d": true, "/a/b": false, "/b?/a": false} {
		if f(p) != want {
			t.Errorf("%q: got %v, want %v", p, !want, want)
		}
	}
	if _, err := match.Path(&matcherv3.PathMatcher{}); err == nil {
		t.Error("a path matcher without a rule compiles")
	}
}

func TestTemplate(t *testing.T) {
	for _, c := range []struct {
		template string
		yes, no  []string
	}{
		{"/", []string{"/", "/?q"}, []string{"/a", ""}},
		{"/foo/*", []string{"/foo/bar", "/foo/b.r?x=/y"}, []string{"/foo", "/foo/", "/foo/a/b"}},
		{"/foo/**", []string{"/foo/", "/foo/a", "/foo/a/b/"}, []string{"/foo", "/fooo/"}},
		{"/foo/*/bar", []string{"/foo/x/bar"}, []string{"/foo/bar", "/foo/x/y/bar"}},
		{"/*/baz/**", []string{"/a/baz/", "/a/baz/b/c"}, []string{"/a/b/baz/c"}},
		{"/foo/**/bar", []string{"/foo/a/b/bar", "/foo//bar"}, []string{"/foo/bar", "/foo/a/bars"}},
		{"/v.1/*/", []string{"/v.1/a/"}, []string{"/v11/a/", "/v.1/a"}},
		{"/media/*.m3u8", []string{"/media/a.m3u8"}, []string{"/media/a.mp4", "/media/.m3u8"}},
		{"/a/{name}", []string{"/a/b"}, []string{"/a/", "/a/b/c"}},
		{"/a/{name=x/*/y}/{rest=**}", []string{"/a/x/1/y/", "/a/x/1/y/2/3"}, []string{"/a/x/y/"}},
	} {
		f, err := match.Template(c.template)
		if err != nil {
			t.Fatalf("%s: %v", c.template, err)
		}
		for _, s := range c.yes {
			if !f(s) {
				t.Errorf("%s does not match %q", c.template, s)
			}
		}
		for _, s := range c.no {
			if f(s) {
				t.Errorf("%s matches %q", c.template, s)
			}
		}
	}
}

func TestTemplateErrors(t *testing.T) {
	for _, bad := range []string{
		"", "foo", "//a", "/**/*", "/a b", "/{a", "/{1}", "/{a}/{a}", "/{a=}", "/{abcdefghijklmnopq}", "/{a=**}/{b}",
		"/{a}/{b}/{c}/{d}/{e}/{f}", "/*.x/y", "/a*b", "/***", "/{a=*x}",
	} {
		if _, err := match.Template(bad); err == nil || !strings.Contains(err.Error(), "uri template") {
			t.Errorf("%q: got error %v", bad, err)
		}
	}
}

func TestPathExtension(t *testing.T) {
	wrap := func(m *anypb.Any) *corev3.TypedExtensionConfig {
		return &corev3.TypedExtensionConfig{Name: "uri-template", TypedConfig: m}
	}
	tmpl, err := anypb.New(&uritemplatev3.UriTemplateMatchConfig{PathTemplate: "/a/*"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := match.PathExtension(wrap(tmpl))
	if err != nil {
		t.Fatal(err)
	}
	if !f("/a/b") || f("/b") {
		t.Error("the template of the extension is not what matches")
	}
	other, err := anypb.New(structpb.NewBoolValue(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := match.PathExtension(wrap(other)); err == nil || !strings.Contains(err.Error(), "google.protobuf.Value") {
		t.Errorf("got error %v, want one that names the type", err)
	}
}
