package roots

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Where the base systems are kept, and from where they come.
const (
	cacheFolder = "/var/cache/paxos-iscsi/roots"
	suite       = "bookworm"
	mirror      = "http://deb.debian.org/debian"
)

// basePackages are what a machine has beside Debian's minimal system.
var basePackages = []string{"adduser", "rsyslog", "iproute2", "procps", "libiscsi-bin", "openssh-client"}

// buildTimeout is how long the packages, and the base system, may take to make.
const buildTimeout = 10 * time.Minute

// tree is the repository.
const tree = "../.."

// made is what the tests share: where the packages and the base system are.
var made struct{ packages, base string }

func TestMain(m *testing.M) {
	if what := os.Getenv(machineEnv); what != "" {
		if err := firstProcess(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	status, err := runSuite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "roots:", err)
		status = 1
	}
	os.Exit(status)
}

func runSuite(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("machines of their own need root: run it as root")
	}
	for _, program := range []string{"debootstrap", "nsenter", "ip", "dpkg-buildpackage", "rpmbuild", "qemu-io", "lintian", "rpmlint",
		"systemd-analyze", "systemd-socket-activate"} {
		if _, err := exec.LookPath(program); err != nil {
			return 1, fmt.Errorf("%w: `packaging/tools install` installs what the tests need", err)
		}
	}
	folder, err := os.MkdirTemp("", "roots-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(folder)
	if made.base, err = baseSystem(); err != nil {
		return 1, err
	}
	// PACKAGES names a folder with packages that are there already.
	if made.packages = os.Getenv("PACKAGES"); made.packages == "" {
		made.packages = folder
		fmt.Println("making the packages")
		for _, script := range []string{"packaging/make-deb", "packaging/make-rpm"} {
			if err := shell(tree, script+" "+folder); err != nil {
				return 1, err
			}
		}
	}
	return m.Run(), nil
}

// shell runs a command and returns what it said if it fails. Packages that it makes are compressed fast.
func shell(dir, command string) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DPKG_DEB_COMPRESSOR_TYPE=gzip", "DPKG_DEB_COMPRESSOR_LEVEL=1", "RPM_PAYLOAD=w1.gzdio")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return nil
}

// baseSystem returns the folder of the system that all machines start as, made by debootstrap if it is not there.
func baseSystem() (string, error) {
	list := strings.Join(basePackages, ",")
	name := fmt.Sprintf("%s-%x", suite, sha256.Sum256([]byte(list)))[:len(suite)+9]
	base := filepath.Join(cacheFolder, name)
	if _, err := os.Stat(base); err == nil {
		return base, nil
	}
	if err := os.MkdirAll(cacheFolder, 0o755); err != nil {
		return "", err
	}
	fmt.Println("making the base system", base)
	unfinished := base + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	if err := shell("/", fmt.Sprintf("debootstrap --variant=minbase --include=%s %s %s %s", list, suite, unfinished, mirror)); err != nil {
		return "", err
	}
	return base, os.Rename(unfinished, base)
}
