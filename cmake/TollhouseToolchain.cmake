# Compiler, linker and sanitizer choices, in one place for every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(TOLLHOUSE_CCACHE ccache)
if(TOLLHOUSE_CCACHE)
  # Paths relative to the checkout, so that one compiler cache serves several checkouts.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 ${TOLLHOUSE_CCACHE})
endif()

find_program(TOLLHOUSE_MOLD mold)
if(TOLLHOUSE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_compile_options(-ffile-prefix-map=${CMAKE_SOURCE_DIR}=.)
add_compile_definitions(_GNU_SOURCE)

set(TOLLHOUSE_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread")
if(TOLLHOUSE_SANITIZE)
  add_compile_options(-fsanitize=${TOLLHOUSE_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${TOLLHOUSE_SANITIZE})
endif()
if(TOLLHOUSE_SANITIZE MATCHES "thread")
  # GCC warns of every atomic_thread_fence in a header; Boost.Asio's are only fences beside atomics.
  add_compile_options(-Wno-tsan)
endif()

# For tests/fuzz/run: clang, whose warnings are other ones.
option(TOLLHOUSE_FUZZ "Build the fuzz targets with libFuzzer" OFF)
if(TOLLHOUSE_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
  set(TOLLHOUSE_WARNINGS -Wno-everything)
  return()
endif()

# GCC 12 sees mismatched new and delete in Asio's coroutine frames where there are none.
set(TOLLHOUSE_WARNINGS -Wall -Wextra -Wshadow=local -Wnon-virtual-dtor
    -Wno-unused-parameter -Wno-missing-field-initializers
    -Wno-mismatched-new-delete -Werror)
