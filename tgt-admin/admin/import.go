package admin

import (
	"fmt"
	"os"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/keep"
	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/lio"
)

// doImport writes the targets.conf that is equal to a saveconfig.json of LIO: to standard output, or to
// the file that -c names. What has no equivalent stands in it as a remark, and is counted on standard
// error; with --strict it ends the run with statusError and nothing is written to a file.
func (a *admin) doImport(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading LIO's configuration: %w", err)
	}
	defer f.Close()
	result, err := lio.Convert(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text, lost := importText(path, result)
	differs, err := verify(a.ctx, a.env, text, result.Config)
	if err != nil {
		return err
	}
	for _, d := range differs {
		lost++
		fmt.Fprintf(a.env.Stderr, "%s: %s: targets.conf can't hold it\n", Name, d)
	}
	if lost > 0 {
		fmt.Fprintf(a.env.Stderr, "%s: %d settings of %s have no equivalent: look for \"LOST\"\n", Name, lost, path)
	}
	refused := a.strict && lost > 0
	if a.fileGiven && !refused {
		backup, err := keep.Write(a.file, text, a.env.Now())
		if err != nil {
			return fmt.Errorf("saving to %s: %w", a.file, err)
		}
		a.print("%s", strings.TrimSuffix(backupNote(a.file, backup), "\n"))
		return nil
	}
	if _, err := fmt.Fprint(a.env.Stdout, text); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	if refused {
		return exit(statusError)
	}
	return nil
}

// importText is the result as targets.conf, and how many of its remarks are losses.
func importText(path string, result *lio.Result) (text string, lost int) {
	d := &document{config: result.Config, remarks: map[string][]string{}}
	d.head = "Made by tgt-admin --import-lio of " + path + ".\n" +
		"portal and target-parameter are additions of this tgt-admin; others pass over them: with tgt's own, start\n" +
		"tgtd with --iscsi portal=ADDRESS:PORT,portal=..."
	for _, r := range result.Remarks {
		mark := "note: "
		if r.Lost {
			mark, lost = "LOST: ", lost+1
		}
		about := r.Target
		if result.Config.Target(about) == nil {
			about = ""
		}
		d.remarks[about] = append(d.remarks[about], mark+r.Text)
	}
	return d.text(), lost
}
