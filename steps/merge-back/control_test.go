package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// control is the program `github` of the scripts: `github merge|close NUMBER`, `github pulls`, `github minted`, `github fail JSON`.
func control() {
	path, body := "/"+os.Args[1], ""
	switch os.Args[1] {
	case "merge", "close":
		path = "/end/" + os.Args[2] + "/" + os.Args[1]
	case "fail":
		body = os.Args[2]
	}
	resp, err := http.Post(os.Getenv("CONTROL")+path, "application/json", strings.NewReader(body))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(os.Stdout, resp.Body)
	if resp.StatusCode != http.StatusOK {
		os.Exit(1)
	}
}
