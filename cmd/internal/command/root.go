package command

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const (
	groupCluster = "cluster"
	groupLabs    = "labs"
	groupTools   = "tools"
)

func newRootCmd(d *Deps) *cobra.Command {
	root := &cobra.Command{
		Use:   "ropes",
		Short: "Learn Kubernetes and Istio on a real cluster, step by graded step",
		Long: `ropes brings up a real multi-node Kubernetes with a real Istio, leads through labs on
it and grades every step against the live cluster.

  ropes up              make the cluster
  ropes labs            see what there is to learn
  ropes start LAB       begin
  ropes watch           be graded while you work
  ropes shell           a shell with kubectl and istioctl for the cluster

Exit codes: 0 all is well, 1 failure, 2 wrong usage, 3 a step is not met, 130 interrupted.`,
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true, // flags of ropes stand before kubectl and istioctl, theirs after
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	// Where the command is unknown, its flags are too: the command is what to tell of.
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd == root && len(words) > 0 {
			return unknownCommand(cmd, words[0])
		}
		return err
	})
	root.SetHelpCommandGroupID(groupTools)
	root.SetCompletionCommandGroupID(groupTools)
	root.AddGroup(
		&cobra.Group{ID: groupCluster, Title: "The cluster:"},
		&cobra.Group{ID: groupLabs, Title: "Labs:"},
		&cobra.Group{ID: groupTools, Title: "Tools:"},
	)
	flags := root.PersistentFlags()
	name := d.Getenv(clusterEnv)
	if name == "" {
		name = DefaultName
	}
	flags.StringVar(&d.cluster, "name", name, "name of the cluster; "+clusterEnv+" sets the default")
	flags.StringArrayVar(&d.labDirs, "labs", nonEmpty(filepath.SplitList(d.Getenv(labsEnv))),
		"directory with labs of your own, beside the built-in ones; may be repeated; "+labsEnv+" sets the default")
	must(root.RegisterFlagCompletionFunc("name", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		names, _ := d.clusterNames() // no completion where they cannot be read
		return names, cobra.ShellCompDirectiveNoFileComp
	}))
	must(root.MarkPersistentFlagDirname("labs"))

	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupCluster, newUpCmd(d), newStatusCmd(d), newDoctorCmd(d), newLogsCmd(d), newDownCmd(d), newPurgeCmd(d), newBundleCmd(d))
	add(groupLabs, newLabsCmd(d), newStartCmd(d), newCheckCmd(d), newWatchCmd(d), newHintCmd(d), newSolutionCmd(d), newResetCmd(d))
	add(groupTools, newShellCmd(d), newKubectlCmd(d), newIstioctlCmd(d), newRightsCmd(d), newImagesCmd(d), newVersionCmd(d))
	return root
}

func unknownCommand(root *cobra.Command, word string) error {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return fmt.Errorf("unknown command %q%s", word, didYouMean(word, names))
}

// run makes the function that cobra calls out of one that needs no cobra.
func (d *Deps) run(fn func(context.Context) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		d.ran = true
		if err := validName(d.cluster); err != nil {
			return err
		}
		return fn(cmd.Context())
	}
}

// validName refuses what is no DNS label before a path is made of it.
func validName(name string) error {
	ok := name != "" && len(name) <= 40 && name[0] != '-' && name[len(name)-1] != '-'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return usagef("cluster name %q: use lower-case letters, digits and dashes, 40 at most", name)
	}
	return nil
}

// atMost refuses more than n arguments in words of ours.
func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("unexpected argument %q", args[n])
		}
		return nil
	}
}

// format is the value of --output.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatText, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("use text or json")
}

func outputFlag(cmd *cobra.Command, f *format) {
	*f = formatText
	cmd.Flags().VarP(f, "output", "o", "output format, text or json")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{string(formatText), string(formatJSON)}, cobra.ShellCompDirectiveNoFileComp)))
}

// printJSON writes v as a result.
func (d *Deps) printJSON(v any) error {
	enc := json.NewEncoder(d.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// didYouMean is the end of a sentence about a word that is none of the known ones.
func didYouMean(word string, known []string) string {
	best, least := "", 3 // more changes than two make another word
	for _, k := range known {
		n := distance(strings.ToLower(word), k)
		if strings.HasPrefix(k, strings.ToLower(word)) && len(word) > 1 {
			n = min(n, 1)
		}
		if n < least && n < len(k) {
			best, least = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the least number of inserted, deleted, replaced and swapped letters.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

func nonEmpty(list []string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// must is for errors that only a mistake in this package can make.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
