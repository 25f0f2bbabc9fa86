# The only ways a target is made. File lists are explicit; DEPS are the dependency rules of the tree.

# tollhouse_library(NAME SRCS ... [DEPS ...]) -> target tollhouse_NAME, alias tollhouse::NAME
function(tollhouse_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(tollhouse_${name} STATIC ${ARG_SRCS})
    target_include_directories(tollhouse_${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_compile_options(tollhouse_${name} PRIVATE ${TOLLHOUSE_WARNINGS})
    target_link_libraries(tollhouse_${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(tollhouse_${name} INTERFACE)
    target_include_directories(tollhouse_${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(tollhouse_${name} INTERFACE ${ARG_DEPS})
  endif()
  add_library(tollhouse::${name} ALIAS tollhouse_${name})
endfunction()

# tollhouse_binary(NAME SRCS ... [DEPS ...]) -> build/bin/NAME
function(tollhouse_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(${name} PRIVATE ${TOLLHOUSE_WARNINGS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
endfunction()

# tollhouse_test(NAME SRCS ... [DEPS ...] [LABELS unit|conformance|...]) -> a GoogleTest program that ctest runs
function(tollhouse_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  # What is tested is optimized, the test itself need not be: it compiles faster.
  target_compile_options(${name} PRIVATE ${TOLLHOUSE_WARNINGS} $<$<CONFIG:Release>:-O1>)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

# tollhouse_embed(OUT FILE NAMESPACE SYMBOL): sets OUT to a generated source that defines
# `const std::string_view SYMBOL` with the text of FILE; a header of the folder declares it.
function(tollhouse_embed out file namespace symbol)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  file(READ ${file} TOLLHOUSE_EMBEDDED_TEXT)
  set(TOLLHOUSE_EMBEDDED_NAMESPACE ${namespace})
  set(TOLLHOUSE_EMBEDDED_SYMBOL ${symbol})
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.cc)
  configure_file(${CMAKE_SOURCE_DIR}/cmake/embedded.cc.in ${generated} @ONLY)
  set(${out} ${generated} PARENT_SCOPE)
endfunction()

# tollhouse_proto(NAME PROTOS ... [DEPS ...]) -> tollhouse::NAME with messages and gRPC stubs.
# Paths are relative to proto/; generated headers are included as "tollhouse/X/v1/Y.pb.h".
function(tollhouse_proto name)
  cmake_parse_arguments(ARG "" "" "PROTOS;DEPS" ${ARGN})
  set(out ${CMAKE_BINARY_DIR}/gen)
  set(sources)
  foreach(proto ${ARG_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    add_custom_command(
      OUTPUT ${out}/${stem}.pb.cc ${out}/${stem}.pb.h ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h
      COMMAND ${CMAKE_COMMAND} -E make_directory ${out}
      COMMAND protobuf::protoc -I ${CMAKE_SOURCE_DIR}/proto --cpp_out=${out} --grpc_out=${out}
              --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin>
              ${CMAKE_SOURCE_DIR}/proto/${proto}
      DEPENDS ${CMAKE_SOURCE_DIR}/proto/${proto}
      VERBATIM)
    list(APPEND sources ${out}/${stem}.pb.cc ${out}/${stem}.grpc.pb.cc)
  endforeach()
  add_library(tollhouse_${name} STATIC ${sources})
  target_include_directories(tollhouse_${name} SYSTEM PUBLIC ${out})
  target_link_libraries(tollhouse_${name} PUBLIC gRPC::grpc++ protobuf::libprotobuf ${ARG_DEPS})
  add_library(tollhouse::${name} ALIAS tollhouse_${name})
endfunction()
