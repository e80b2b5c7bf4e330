package istio

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestUpstreamImages is what the mesh asks its registry for with Istio's own images, in
// the order of the names: none of it can be pulled where this is tested.
func TestUpstreamImages(t *testing.T) {
	docs := rendered(t, Config{Hub: "docker.io/istio", Tag: "1.31.0"})
	found := map[string]bool{}
	image := regexp.MustCompile(`(?m)^\s*(?:- )?image: "?([^"\s]+)"?\s*$`)
	hub := regexp.MustCompile(`"(hub|tag)": "([^"]+)"`)
	for _, doc := range docs {
		for _, m := range image.FindAllStringSubmatch(doc, -1) {
			if !strings.Contains(m[1], "{{") {
				found["image "+m[1]] = true
			}
		}
		for _, m := range hub.FindAllStringSubmatch(doc, -1) {
			found["injected "+m[1]+" "+m[2]] = true
		}
		if strings.Contains(doc, "ropes.local") {
			t.Errorf("an image of ours in\n%.300s", doc)
		}
	}
	golden(t, "upstream.txt", strings.Join(slices.Sorted(maps.Keys(found)), "\n")+"\n")
}
