package main

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is printed below the flags' summary.
func (*completionCmd) Help() string {
	return `Examples:
  source <(worker completion bash)              this shell; put it into ~/.bashrc for all
  source <(worker completion zsh)               after compinit; ~/.zshrc for all
  worker completion fish | source               ~/.config/fish/config.fish for all

The shell asks the program itself, so that what it offers is what this version knows. Nothing is
looked up on the network.`
}

// What makes a shell ask the program, which is found by its name.
var completions = map[string]string{
	"bash": "complete -o default -o bashdefault -C 'worker' 'worker'\n",
	"zsh":  "autoload -U +X bashcompinit && bashcompinit\ncomplete -o default -o bashdefault -C 'worker' 'worker'\n",
	"fish": `function __complete_worker
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    worker
end
complete -f -c worker -a "(__complete_worker)"
`,
}

// Run prints what a shell has to read.
func (c *completionCmd) Run(t *terminal) error {
	_, err := fmt.Fprint(t.out, completions[c.Shell])
	return err
}

// complete answers a shell that asks how a command line may go on, and does not
// return then.
func complete(parser *kong.Kong) {
	if os.Getenv("COMP_LINE") != "" {
		kongcompletion.Register(parser)
	}
}
