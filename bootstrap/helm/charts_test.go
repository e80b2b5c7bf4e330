package helm

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"

	"github.com/ropes-dev/ropes/charts"
)

// The charts are checked here because only this package imports Helm.
func TestChartsPassLint(t *testing.T) {
	entries, err := fs.ReadDir(charts.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) == 0 {
		t.Fatal("there are no charts")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, charts.FS); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			for _, m := range lint.All(filepath.Join(dir, e.Name()), nil, e.Name(), true).Messages {
				// Of the mere remarks there is one: that a chart should have an icon.
				if m.Severity > support.InfoSev {
					t.Error(m)
				}
			}
		})
	}
}
