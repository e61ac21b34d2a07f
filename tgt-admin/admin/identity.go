package admin

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
)

// The programs of sg3-utils that a direct-store is asked by.
const (
	inquiryTool  = "sg_inq"
	capacityTool = "sg_readcap"
)

// toolMissing is the status of a program that is not there, as a shell has it.
const toolMissing = 127

// runTool runs a program and returns its output and exit status. What it says on standard error goes to
// ours.
func runTool(argv ...string) (string, int) {
	var out bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	err := cmd.Run()
	var ended *exec.ExitError
	switch {
	case err == nil:
		return out.String(), 0
	case errors.As(err, &ended):
		return out.String(), ended.ExitCode()
	}
	return "", toolMissing
}

// identify asks a device how it calls itself and how it likes to be used. Failing questions, which
// their programs complain of, leave the answers out.
func (u *unit) identify() (map[string]string, error) {
	identity := map[string]string{}
	take := func(text, pattern string, keys ...string) {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		for i, key := range keys {
			if m != nil {
				identity[key] = m[i+1]
			}
		}
	}
	text, status := u.env.Tool(inquiryTool, u.path)
	if status == toolMissing {
		return nil, u.fail("Command '%s' (needed by 'option direct-store') is not in your path - can't continue!",
			inquiryTool)
	}
	take(text, `(?m)Vendor identification:[ \t]*(.*)$`, "vendor_id")
	take(text, `(?m)Product identification:[ \t]*(.*)$`, "product_id")
	take(text, `(?m)Product revision level:[ \t]*(.*)$`, "product_rev")
	take(text, `(?m)Unit serial number:[ \t]*(.*)$`, "scsi_sn")

	// The block limits page (SBC-3 6.6.3).
	text, _ = u.env.Tool(inquiryTool, "-p", "0xb0", u.path)
	take(text, `Optimal transfer length granularity: ([1-9]\d*)`, "optimal_xfer_gran")
	take(text, `Optimal transfer length: ([1-9]\d*)`, "optimal_xfer_len")

	// The form of sg3-utils up to 1.4x. Later ones write the last line another way, and tgt then takes
	// none of the three: neither is the block size changed here of units that are in use since.
	text, _ = u.env.Tool(capacityTool, "-16", u.path)
	take(text, `Logical block length=(\d+) bytes\n`+
		`\s+Logical blocks per physical block exponent=(\d+).*\n`+
		`\s+Lowest aligned logical block address=(\d+)`, "block-size", "lbppbe", "la_lba")
	return identity, nil
}
