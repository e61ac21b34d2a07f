package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// completions are the scripts that make a shell complete pssctl's words: each asks the program itself, with the
// option that package cli has for it.
func completions() map[string]string {
	return map[string]string{
		"bash": `_pssctl() {
	local word=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=($(compgen -W "$("${COMP_WORDS[@]:0:COMP_CWORD}" --generate-bash-completion 2> /dev/null)" -- "$word"))
}
complete -o bashdefault -o default -F _pssctl pssctl
`,
		"zsh": `#compdef pssctl
_pssctl() {
	local -a words_found
	words_found=("${(@f)$("${(@)words[1,CURRENT-1]}" --generate-bash-completion 2> /dev/null)}")
	_describe 'word' words_found
}
compdef _pssctl pssctl
`,
		"fish": `complete -c pssctl -f -a '(set -l words (commandline -opc); command $words --generate-bash-completion 2> /dev/null)'
`,
	}
}

func completionCommand() *cli.Command {
	return &cli.Command{Name: "completion", Usage: "print what makes a shell complete pssctl's words", ArgsUsage: "{bash|zsh|fish}",
		HideHelpCommand: true, Action: func(c *cli.Context) error {
			script, ok := completions()[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return console.Usagef("completion takes bash, zsh or fish")
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		}}
}
