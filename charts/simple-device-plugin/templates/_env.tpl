{{- /* The variables that the chart sets, and what to do instead of setting them in env. */}}
{{- define "sdp.chartVariables" -}}
NODE_NAME: the chart sets it to the name of the pod's node; remove it
NAMESPACE: the chart sets it to the pod's namespace; remove it
DEVICE_PLUGIN_PATH: the chart mounts the host's directory at the program's default path; set devicePluginDir
POD_RESOURCES_SOCKET: the chart mounts the host's directory at the program's default path; set podResourcesDir
CONTROL_SOCKET: the chart mounts a volume for it at the program's default path; remove it
CONFIG_FILE: the chart mounts the file; set config
ALLOWED_HOST_PATHS: the chart sets it; set allowedHostPaths
HTTP_ADDRESS: the chart sets it, the probes and the container's port; set httpPort
RUST_LOG: the chart sets it; set logLevel
LOG_FORMAT: the chart sets it; set logFormat
{{- end }}

{{- /* Matches the variables of a resource, in each form. */}}
{{- define "sdp.resourceVariable" -}}
^(RESOURCE_NAME|NUMBER_DEVICES|DEVICE_ID_PREFIX|PLUGIN_NAME|ENV_PREFIX|ANNOTATION_PREFIX|DEVICE_FILE_PREFIX|DEVICE_FILE_HOST_PATH|NUMA_NODES|PREFERRED_ALLOCATION)(_[0-9]+)?([.].+)?$
{{- end }}

{{- /* The text of a value of env. Helm reads numbers as floats, which would be printed as 1e+06. Takes a dict with name and value. */}}
{{- define "sdp.envText" -}}
{{- $expected := printf "env: %s: expected a string or a whole number, got" .name }}
{{- if kindIs "map" .value }}
{{- fail (printf "%s a map. With --set, escape each dot in a variable's name: --set 'env.NUMBER_DEVICES_0\\.worker2=0'" $expected) }}
{{- else if kindIs "string" .value }}
{{- .value }}
{{- else if not (has (kindOf .value) (list "int" "int64" "float64")) }}
{{- fail (printf "%s a %s; write it in quotes" $expected (kindOf .value | replace "slice" "list")) }}
{{- else if ne (int64 .value | float64) (float64 .value) }}
{{- fail (printf "%s %v; write it in quotes" $expected .value) }}
{{- else }}
{{- int64 .value }}
{{- end }}
{{- end }}

{{- /* The variables of env, as a JSON object of texts without null values. Fails if one conflicts with the chart or with config. */}}
{{- define "sdp.env" -}}
{{- $chartVariables := include "sdp.chartVariables" . | fromYaml }}
{{- $env := dict }}
{{- range $name, $value := .Values.env }}
{{- if not (kindIs "invalid" $value) }}
{{- if hasKey $chartVariables $name }}
{{- fail (printf "env: %s cannot be set: %s" $name (get $chartVariables $name)) }}
{{- end }}
{{- if and $.Values.config (regexMatch (include "sdp.resourceVariable" $) $name) }}
{{- fail (printf "env: %s cannot be used with config; set it in the config file" $name) }}
{{- end }}
{{- $_ := set $env $name (include "sdp.envText" (dict "name" $name "value" $value)) }}
{{- end }}
{{- end }}
{{- toJson $env }}
{{- end }}

{{- /* The variables of the container. Without config, sockets are named after the release, so that several releases can run on one
node. Kubernetes expands $(NAME) and $$ in values, so $ is escaped. */}}
{{- define "sdp.containerEnv" -}}
{{- $env := include "sdp.env" . | fromJson }}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: RUST_LOG
  value: {{ .Values.logLevel | quote }}
- name: LOG_FORMAT
  value: {{ .Values.logFormat | quote }}
- name: HTTP_ADDRESS
  value: "{{ with int64 .Values.httpPort }}:{{ . }}{{ end }}"
{{- if not .Values.podResourcesDir }}
- name: POD_RESOURCES_SOCKET
  value: ""
{{- end }}
{{- if .Values.config }}
- name: CONFIG_FILE
  value: /etc/simple-device-plugin/config.yaml
{{- with .Values.allowedHostPaths }}
- name: ALLOWED_HOST_PATHS
  value: {{ join "," . | replace "$" "$$" | quote }}
{{- end }}
{{- else }}
{{- if .Values.allowedHostPaths }}
{{- fail "allowedHostPaths has no effect without config" }}
{{- end }}
{{- if not (hasKey $env "PLUGIN_NAME") }}
{{- $_ := set $env "PLUGIN_NAME" (include "sdp.fullname" .) }}
{{- end }}
{{- end }}
{{- range $name, $value := $env }}
- name: {{ $name | quote }}
  value: {{ $value | replace "$" "$$" | quote }}
{{- end }}
{{- end }}

{{- /* The names of the resources that env names for all nodes, sorted, as a JSON list. */}}
{{- define "sdp.resourceNames" -}}
{{- $names := dict }}
{{- if not .Values.config }}
{{- $env := include "sdp.env" . | fromJson }}
{{- $list := ternary (get $env "RESOURCE_NAME") "example.com/simple-device" (hasKey $env "RESOURCE_NAME") }}
{{- range $index, $name := splitList "," $list }}
{{- if not (trim $name) }}
{{- fail "env: RESOURCE_NAME: expected a resource name in each element" }}
{{- end }}
{{- $_ := set $names (toString $index) (trim $name) }}
{{- end }}
{{- range $variable, $name := $env }}
{{- if regexMatch "^RESOURCE_NAME_[0-9]+$" $variable }}
{{- $_ := set $names (trimPrefix "RESOURCE_NAME_" $variable) $name }}
{{- end }}
{{- end }}
{{- end }}
{{- values $names | sortAlpha | uniq | toJson }}
{{- end }}
