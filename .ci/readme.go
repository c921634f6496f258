//go:build ignore

// Readme runs every command that a Markdown file shows in its sh blocks, in a
// copy of the tree, so that what users are told works.
//
//	go run .ci/readme.go [-done 'a command that was run already'] README.md
//
// A comment in front of a block says that it is special:
//
//	<!-- ci: skip: why -->            the block is not run
//	<!-- ci: background http://... --> the block goes on in the background; the
//	                                  next one starts when the URL answers 200
//
// Blocks run with bash -euo pipefail, one after the other, in the root of the
// copy; curl fails on an HTTP error. What was started in the background gets a SIGTERM at the end and has to
// stop. It is an error if the file has no block that is run.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	blockTimeout = 10 * time.Minute
	readyTimeout = 3 * time.Minute // it may compile first
	stopTimeout  = time.Minute
)

func main() {
	done := flag.String("done", "", "a command line that was run already and is left out")
	flag.Parse()
	if err := run(flag.Args(), *done); err != nil {
		fmt.Fprintln(os.Stderr, "readme:", err)
		os.Exit(1)
	}
}

func run(files []string, done string) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "readme-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyTree(dir, root); err != nil {
		return err
	}
	// An HTTP error makes curl fail, which it does not by itself.
	if err := os.WriteFile(filepath.Join(dir, ".curlrc"), []byte("fail\n"), 0o600); err != nil {
		return err
	}
	r := &runner{dir: dir, done: done}
	defer r.stop()
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		blocks, err := parse(name, string(text))
		if err != nil {
			return err
		}
		before := r.ran
		for _, b := range blocks {
			if err := r.block(b); err != nil {
				return fmt.Errorf("%s:%d: %w", b.file, b.line, err)
			}
		}
		if r.ran == before {
			return fmt.Errorf("%s shows no command", name)
		}
	}
	return r.stop()
}

// copyTree copies the sources, without what .gitignore and git keep.
func copyTree(dst, src string) error {
	skip := []string{".git", "bin", "data"}
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		if slices.Contains(skip, rel) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil // .git is a file in a work tree; SkipDir would leave out what follows it
		}
		target := filepath.Join(dst, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, info.Mode().Perm())
	})
}

// block is one fenced block of shell commands.
type block struct {
	file       string
	line       int
	script     string
	skip       string // why it is not run, or ""
	background string // the URL to wait for, or ""
}

// parse returns the sh blocks of a Markdown file.
func parse(name, text string) (blocks []block, err error) {
	marker := regexp.MustCompile(`^<!-- ci: (skip|background):? +(.*?) *-->$`)
	var b block
	var next block // what a marker said of the block that follows
	inside, ours := false, false
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case inside && trimmed == "```":
			if ours {
				blocks = append(blocks, b)
			}
			inside, next = false, block{}
		case inside:
			b.script += line + "\n"
		case strings.HasPrefix(trimmed, "```"):
			inside, ours = true, trimmed == "```sh"
			b = next
			b.file, b.line = name, i+1
		case strings.HasPrefix(trimmed, "<!-- ci:"):
			m := marker.FindStringSubmatch(trimmed)
			if m == nil {
				return nil, fmt.Errorf("%s:%d: cannot read the marker %s", name, i+1, trimmed)
			}
			if m[1] == "skip" {
				next.skip = m[2]
			} else {
				next.background = m[2]
			}
		case trimmed != "":
			next = block{} // a marker belongs to the block right behind it
		}
	}
	if inside {
		return nil, fmt.Errorf("%s:%d: block without an end", name, b.line)
	}
	return blocks, nil
}

// runner runs blocks in dir.
type runner struct {
	dir, done  string
	ran        int
	background []service
}

// service is a block that runs in the background.
type service struct {
	cmd    *exec.Cmd
	url    string
	exited chan error // of the shell
}

func (r *runner) block(b block) error {
	script := strings.TrimSpace(b.script)
	if b.skip != "" {
		fmt.Printf("%s:%d: not run: %s\n", b.file, b.line, b.skip)
		return nil
	}
	var lines []string
	for _, line := range strings.Split(script, "\n") {
		command, _, _ := strings.Cut(line, " #")
		if r.done == "" || strings.TrimSpace(command) != r.done {
			lines = append(lines, line)
		}
	}
	r.ran++
	if len(lines) == 0 {
		return nil
	}
	script = strings.Join(lines, "\n")
	fmt.Printf("%s:%d:\n\t%s\n", b.file, b.line, strings.ReplaceAll(script, "\n", "\n\t"))
	if strings.Contains(script, "curl ") {
		if _, err := exec.LookPath("curl"); err != nil {
			fmt.Printf("%s:%d: NOT RUN: there is no curl on this machine\n", b.file, b.line)
			return nil
		}
	}
	if b.background != "" {
		return r.start(script, b.background)
	}
	out, err := r.shell(script)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func (r *runner) command(script string) *exec.Cmd {
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "CURL_HOME="+r.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to signal all of them
	return cmd
}

// shell runs a script to its end.
func (r *runner) shell(script string) ([]byte, error) {
	cmd := r.command(script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	timer := time.AfterFunc(blockTimeout, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	err := cmd.Wait()
	return out.Bytes(), err
}

// start runs a script in the background and waits until url answers 200.
func (r *runner) start(script, url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	if answers(&client, url) {
		return fmt.Errorf("something else answers %s already", url)
	}
	cmd := r.command(script)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	r.background = append(r.background, service{cmd, url, exited})
	var last error
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-exited:
			exited <- err
			return fmt.Errorf("the command ended: %v", err)
		default:
		}
		res, err := client.Get(url)
		if err != nil {
			last = err
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return nil
		}
		last = errors.New(res.Status)
	}
	return fmt.Errorf("%s does not answer: %w", url, last)
}

// stop ends what runs in the background, and wants it to end when asked.
func (r *runner) stop() error {
	var errs []error
	client := http.Client{Timeout: 5 * time.Second}
	for _, svc := range r.background {
		group := -svc.cmd.Process.Pid
		_ = syscall.Kill(group, syscall.SIGTERM)
		<-svc.exited // the signal ends it
		// What the shell had started is not ours to wait for; it is gone when
		// nobody answers any more.
		deadline := time.Now().Add(stopTimeout)
		for answers(&client, svc.url) && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		if answers(&client, svc.url) {
			_ = syscall.Kill(group, syscall.SIGKILL)
			errs = append(errs, fmt.Errorf("what answers %s did not stop when asked", svc.url))
		}
	}
	r.background = nil
	return errors.Join(errs...)
}

// answers reports whether anybody listens at url.
func answers(client *http.Client, url string) bool {
	res, err := client.Get(url)
	if err == nil {
		_ = res.Body.Close()
	}
	return err == nil
}
