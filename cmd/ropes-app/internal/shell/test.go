package shell

import (
	"context"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// Test is the program test, also called [, for those who start it without a shell, as
// kubectl cp does. It is the interpreter's, so that both mean the same.
func Test(ctx context.Context, call *applet.Call) int {
	word := "test"
	if call.Name == "[" {
		word = "["
	}
	inner := *call
	inner.Name, inner.Args = "sh", append([]string{"-c", word + ` "$@"`, call.Name}, call.Args...)
	return New(nil)(ctx, &inner)
}
