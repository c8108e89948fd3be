// Program backend is the service of this example: it answers every request with one line.
package main

import (
	"fmt"
	"log"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, greeting) })
	log.Fatal(http.ListenAndServe(":8080", nil))
}

const greeting = "hello"
