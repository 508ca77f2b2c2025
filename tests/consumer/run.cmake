# SPDX-License-Identifier: Apache-2.0
# Goal: what `cmake --install` leaves behind works for others, wherever it is moved.
# Method: install to one prefix, rename the prefix, then build and run the consumer twice, by
# find_package and by pkg-config. Needs BUILD, CXX, NM, WORK, LIBDIR.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT status EQUAL 0)
    string(JOIN " " command ${ARGV})
    message(FATAL_ERROR "${command}\n${out}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/before)
file(RENAME ${WORK}/before ${WORK}/moved)

run(${CMAKE_COMMAND} -G Ninja -S ${CMAKE_CURRENT_LIST_DIR}/project -B ${WORK}/build
    -D CMAKE_CXX_COMPILER=${CXX} -D CMAKE_BUILD_TYPE=Release -D CMAKE_PREFIX_PATH=${WORK}/moved)
run(${CMAKE_COMMAND} --build ${WORK}/build -j 2)
run(${WORK}/build/consumer ${WORK}/store1)
run(${WORK}/build/schema_crash_test)

# What tests need is in kessai::testing alone: the engine's library has no simulated disk, no seams.
execute_process(COMMAND ${NM} -C ${WORK}/moved/${LIBDIR}/libkessai.a OUTPUT_VARIABLE symbols ERROR_QUIET
                COMMAND_ERROR_IS_FATAL ANY)
if(symbols MATCHES "SimDisk|SimDirectory|set_mutant|interrupted_here" OR NOT symbols MATCHES "Database::open")
  message(FATAL_ERROR "libkessai.a holds what only tests may: ${CMAKE_MATCH_0}")
endif()

set(ENV{PKG_CONFIG_PATH} ${WORK}/moved/${LIBDIR}/pkgconfig)
execute_process(COMMAND pkg-config --cflags --libs kessai OUTPUT_VARIABLE flags COMMAND_ERROR_IS_FATAL ANY
                OUTPUT_STRIP_TRAILING_WHITESPACE)
separate_arguments(flags UNIX_COMMAND "${flags}")
run(${CXX} -std=c++23 ${CMAKE_CURRENT_LIST_DIR}/project/main.cc ${flags} -o ${WORK}/by_pkg_config)
run(${WORK}/by_pkg_config ${WORK}/store2)
