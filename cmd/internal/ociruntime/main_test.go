package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const process = `{"args":["sh"],"oomScoreAdj":-998,"rlimits":[{"type":"RLIMIT_NOFILE","hard":1048576,"soft":1048576}],
"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"]},"user":{"uid":9007199254740993}}`

func TestPrepare(t *testing.T) {
	score, err := ownScore()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"args": []any{"sh"}, "oomScoreAdj": float64(score), "user": map[string]any{"uid": 9007199254740993.0},
		"capabilities": map[string]any{"bounding": []any{"CAP_CHOWN"}, "effective": []any{}},
	}
	dir := t.TempDir()
	bundle, exec := filepath.Join(dir, "config.json"), filepath.Join(dir, "process.json")
	for name, tt := range map[string]struct {
		args []string
		file string
		text string
		in   func(map[string]any) any
	}{
		"create": {[]string{"--root", "/run", "create", "--bundle", dir, "id"}, bundle, `{"ociVersion":"1.0.2","process":` + process + `}`, func(m map[string]any) any { return m["process"] }},
		"run":    {[]string{"run", "--bundle=" + dir, "id"}, bundle, `{"process":` + process + `}`, func(m map[string]any) any { return m["process"] }},
		"exec":   {[]string{"--log", "x", "exec", "--process", exec, "--detach", "id"}, exec, process, func(m map[string]any) any { return m }},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(tt.file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := prepare(tt.args); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(any(want), tt.in(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, args := range [][]string{{"delete", "id"}, {"--version"}, {"exec", "id", "create"}, nil} {
		if err := prepare(args); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}
