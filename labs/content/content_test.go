package content_test

import (
	"slices"
	"testing"

	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/content"
)

func TestLabsAreSound(t *testing.T) {
	catalog, err := labs.Load(labs.Source{Name: "built in", FS: content.FS})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, lab := range catalog {
		ids = append(ids, lab.ID)
		t.Run(lab.ID, func(t *testing.T) { sound(t, lab) })
	}
	if want := []string{"mtls", "namespaces", "storage"}; !slices.Equal(ids, want) {
		t.Errorf("labs are %v, want %v", ids, want)
	}
}

// sound holds a lab of ours to more than what the format demands of any author.
func sound(t *testing.T, lab *labs.Lab) {
	if n := len(lab.Steps); n < 5 || n > 8 {
		t.Errorf("%d steps, want 5 to 8", n)
	}
	for _, step := range lab.Steps {
		if n := len(step.Hints); n < 2 || n > 4 {
			t.Errorf("step %s: %d hints, want 2 to 4", step.ID, n)
		}
		if n := len(step.Mistakes); n < 2 {
			t.Errorf("step %s: %d known mistakes, want 2 or more", step.ID, n)
		}
		for _, mistake := range step.Mistakes {
			if mistake.Body == step.Solution {
				t.Errorf("step %s: mistake %s is the solution", step.ID, mistake.Mistake)
			}
		}
	}
}
