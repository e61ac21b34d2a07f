package target

import (
	"errors"
	"log/slog"
	"strings"
	"syscall"
)

// OriginKey is the log attribute that names the function a line is said to come from, where tgt's users know it
// by that name.
const OriginKey = "origin"

// worded is an error of which tgt's log says something that its users search for.
type worded struct {
	error
	origin, text string // text is empty where tgt says nothing
}

func (w *worded) Unwrap() error { return w.error }

// Worded gives err what tgt's log says of it: the function that says so, and the text. What err was given before
// stands before that.
func Worded(err error, origin, text string) error { return &worded{err, origin, text} }

// silent marks an error of which tgt's log says nothing, since its answer says all.
func silent(err error) error { return &worded{error: err} }

// LogRefusal logs err in tgt's words, and the error itself where there are none.
func LogRefusal(log *slog.Logger, what string, err error) {
	var lines []*worded
	for rest := err; ; {
		var w *worded
		if !errors.As(rest, &w) {
			break
		}
		lines = append(lines, w)
		rest = w.error
	}
	if len(lines) == 0 {
		log.Warn(what + " refused: " + err.Error())
		return
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i].text != "" {
			log.Error(lines[i].text, OriginKey, lines[i].origin)
		}
	}
	log.Debug(what + " refused: " + err.Error())
}

// osText is the text of the operating system for an error, as C's strerror writes it.
func osText(err error) string {
	var errno syscall.Errno
	text := err.Error()
	if errors.As(err, &errno) {
		text = errno.Error()
	}
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
