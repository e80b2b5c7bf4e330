package content_test

import (
	"testing"

	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/content"
)

// TestBuiltInLabs loads what ropes carries: strict decoding, expressions, files.
func TestBuiltInLabs(t *testing.T) {
	cat, err := labs.Load(labs.Source{Name: "built in", FS: content.FS})
	if err != nil {
		t.Fatal(err)
	}
	for _, lab := range cat {
		mistakes := 0
		for _, s := range lab.Steps {
			mistakes += len(s.Mistakes)
		}
		t.Logf("%s: %d steps, %d mistakes", lab.ID, len(lab.Steps), mistakes)
	}
}
