package agreement

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger passes raft's lines on at debug level: what an operator needs to know (elections,
// members) the replica says itself, in the operator's words. raft panics where going on could break
// the agreement; the replica turns that into the end of this server.
type raftLogger struct{ to *slog.Logger }

func (l raftLogger) log(level slog.Level, format string, v ...any) {
	if l.to.Enabled(context.Background(), level) {
		l.to.Log(context.Background(), level, "agreement: "+fmt.Sprintf(format, v...))
	}
}

func (l raftLogger) Debug(v ...any)                   { l.log(slog.LevelDebug, "%s", fmt.Sprint(v...)) }
func (l raftLogger) Debugf(format string, v ...any)   { l.log(slog.LevelDebug, format, v...) }
func (l raftLogger) Info(v ...any)                    { l.log(slog.LevelDebug, "%s", fmt.Sprint(v...)) }
func (l raftLogger) Infof(format string, v ...any)    { l.log(slog.LevelDebug, format, v...) }
func (l raftLogger) Warning(v ...any)                 { l.log(slog.LevelDebug, "%s", fmt.Sprint(v...)) }
func (l raftLogger) Warningf(format string, v ...any) { l.log(slog.LevelDebug, format, v...) }
func (l raftLogger) Error(v ...any)                   { l.log(slog.LevelWarn, "%s", fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any)   { l.log(slog.LevelWarn, format, v...) }
func (l raftLogger) Fatal(v ...any)                   { panic("agreement: " + fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any)   { panic("agreement: " + fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                   { panic("agreement: " + fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any)   { panic("agreement: " + fmt.Sprintf(format, v...)) }
