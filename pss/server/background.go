package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// envBackground tells a process that it is the background half of a PFSserver: it holds the number
// of the descriptor through which the foreground half waits for news. A Go program can't fork, so the
// background half is the same program started again with the same arguments, which is also what ps shows.
const envBackground = "PFSSERVER_BACKGROUND"

// newsFD is the descriptor of the news pipe in the background half: the first of ExtraFiles.
const newsFD = 3

// background is the way to the foreground half.
type background struct{ news *os.File }

// inBackground returns the way to the foreground half, or nil in the foreground half itself.
func inBackground() *background {
	if os.Getenv(envBackground) != strconv.Itoa(newsFD) {
		return nil
	}
	os.Unsetenv(envBackground)
	return &background{os.NewFile(newsFD, "news")}
}

// report tells the foreground half once that the server is up (nil), or why it isn't.
func (b *background) report(err error) {
	if b.news == nil {
		return
	}
	if err != nil {
		fmt.Fprint(b.news, err)
	}
	b.news.Close()
	b.news = nil
}

// detach starts the background half and waits until it is up.
func detach() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := &exec.Cmd{Path: self, Args: os.Args, ExtraFiles: []*os.File{w},
		Env:         append(os.Environ(), envBackground+"="+strconv.Itoa(newsFD)),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	news, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(news) > 0 {
		return errors.New(string(news))
	}
	return cmd.Process.Release()
}
